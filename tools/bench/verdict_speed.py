"""How many verdicts a second does the `transformers` backend give, for batches of 1, 8 and 32?

    python -m tools.bench.verdict_speed            # after `make demo`; a minute or two

The same held-out rows for every size, in turn, without loading the model; the median of `--rounds`. Seconds of the processor
are given beside those of the clock: other work on the machine disturbs them less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import torch
from tqdm import tqdm

from evaluation.terminal import print_table
from spatial_edit_reward.inference.backends import open_backend
from tools.bench.asked import add_options, asked, questions_about

SIZES = (1, 8, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--count", type=int, default=64, help="rows that are asked about (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each size (default: %(default)s)")
    arguments = parser.parse_args()
    _, model, spec, rows = asked(arguments)
    rows = rows.select(range(min(arguments.count, len(rows))))
    questions = questions_about(rows)

    seconds: dict[int, list[tuple[float, float]]] = {size: [] for size in SIZES}
    said: dict[int, dict[str, str]] = {}
    for turn in range(arguments.rounds * len(SIZES)):
        size = SIZES[turn % len(SIZES)]
        ask = open_backend("transformers", model, spec, batch_size=size)
        start, worked = time.perf_counter(), time.process_time()
        replies = list(tqdm(ask(questions), f"batches of {size}", len(questions), unit="row"))
        seconds[size].append((time.perf_counter() - start, time.process_time() - worked))
        said[size] = {question.key: reply.text for question, reply in replies}

    lines = [["batch", "verdicts/s", "verdicts per second of the processor", "same text as in batches of 1"]]
    for size in SIZES:
        rates = [len(questions) / statistics.median(pair[place] for pair in seconds[size]) for place in (0, 1)]
        same = sum(said[size][key] == text for key, text in said[1].items())
        lines.append([str(size), f"{rates[0]:.2f}", f"{rates[1]:.2f}", f"{same} of {len(questions)}"])
    print_table(lines, f"{len(questions)} rows, medians of {arguments.rounds}")
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads of a CPU"
    print(f"on {where}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
