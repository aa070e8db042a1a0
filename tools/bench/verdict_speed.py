"""How many verdicts a second does the `transformers` backend give, for batches of 1, 8 and 32?

    python -m tools.bench.verdict_speed            # after `make demo`; a minute or two

The same held-out rows for every size, in turn, without the time to load the model; medians of `--rounds` runs, by the clock and
by processor time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import statistics
import time

from tqdm import tqdm

from evaluation.terminal import print_table
from spatial_edit_reward.inference.backends import open_backend
from tools.bench.common import add_options, describe_machine, load_subject, make_requests

SIZES = (1, 8, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--count", type=int, default=64, help="number of rows (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each batch size (default: %(default)s)")
    arguments = parser.parse_args()
    _, model, spec, rows = load_subject(arguments)
    rows = rows.select(range(min(arguments.count, len(rows))))
    requests = make_requests(rows)

    seconds: dict[int, list[tuple[float, float]]] = {size: [] for size in SIZES}
    texts: dict[int, dict[str, str]] = {}
    for turn in range(arguments.rounds * len(SIZES)):
        size = SIZES[turn % len(SIZES)]
        backend = open_backend("transformers", model, spec, batch_size=size)
        start, worked = time.perf_counter(), time.process_time()
        responses = list(tqdm(backend(requests), f"batches of {size}", len(requests), unit="row"))
        seconds[size].append((time.perf_counter() - start, time.process_time() - worked))
        texts[size] = {request.key: response.text for request, response in responses}

    lines = [["batch", "verdicts/s", "verdicts per second of processor time", "same text as in batches of 1"]]
    for size in SIZES:
        by_clock, by_processor = (
            len(requests) / statistics.median(column) for column in zip(*seconds[size], strict=True)
        )
        same = sum(texts[size][key] == text for key, text in texts[1].items())
        lines.append([str(size), f"{by_clock:.2f}", f"{by_processor:.2f}", f"{same} of {len(requests)}"])
    print_table(lines, f"{len(requests)} rows, medians of {arguments.rounds}")
    print(describe_machine())


if __name__ == "__main__":
    main()
