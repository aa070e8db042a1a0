"""What do expected scores change? Accuracy, tie rate and time on the held-out rows, with and without.

    python -m tools.bench.expected_score            # after `make demo`; some minutes

The same greedy verdicts, once with the digits that were written and once with the expected scores. Both sides run in turn,
`--rounds` times, without loading the model; of each side the least time counts, on the clock and of the processor, which other
work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
from tqdm import tqdm

from evaluation.metrics import GroupSums, group_sums, interval, score_rows
from evaluation.report import bare_rows
from evaluation.terminal import print_table
from pipeline.figures import format_figure
from pipeline.rewards import read_rewards
from spatial_edit_reward.inference.backends import open_backend
from spatial_edit_reward.inference.request import Response
from tools.bench.asked import add_options, asked, questions_about

HALF = "ranking_accuracy, ties at half credit"
SHOWN = ("ranking_accuracy", HALF, "tie_rate", "score_mae")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=2, help="runs of each side (default: %(default)s)")
    arguments = parser.parse_args()
    recipe, model, spec, rows = asked(arguments)
    questions = questions_about(rows)

    seconds: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    replies: dict[str, Response] = {}
    for turn in range(2 * arguments.rounds):
        expected = turn % 2 == 1
        ask = open_backend("transformers", model, spec, batch_size=recipe.batch_size, expected_score=expected)
        start, worked = time.perf_counter(), time.process_time()
        name = f"verdicts {'with' if expected else 'without'} expected scores"
        found = {question.key: reply for question, reply in tqdm(ask(questions), name, len(questions), unit="row")}
        seconds[expected].append((time.perf_counter() - start, time.process_time() - worked))
        assert all(found[key].text == reply.text for key, reply in replies.items()), (
            "the two sides differ in their text"
        )
        replies = found

    plain = bare_rows(rows)
    said = [replies[row["id"]] for row in plain]
    selected = read_rewards(recipe.rewards_from, score_range=spec.score_range)
    scored = score_rows(plain, [reply.text for reply in said], selected.rewards, selected.weights, spec, rows["images"])
    smooth = [
        {**values, "scores": values["scores"] if reply.expected is None else tuple(reply.expected)}
        for values, reply in zip(scored, said, strict=True)
    ]
    cut = [reply.truncated for reply in said]
    written, expected_sums = group_sums(plain, scored, cut, spec), group_sums(plain, smooth, cut, spec)
    for sums in (written, expected_sums):
        right, tied = sums["ranking_accuracy"], sums["tie_rate"]
        sums[HALF] = GroupSums(right.numerator + tied.numerator / 2, right.denominator)
    lines = [["", "as written", "expected", "difference"]]
    for metric in SHOWN:
        both = [interval(sums[metric], recipe.bootstrap_samples, recipe.seed) for sums in (written, expected_sums)]
        apart = interval(expected_sums[metric], recipe.bootstrap_samples, recipe.seed, written[metric])
        lines.append([metric, *(format_figure(**figures) for figures in both), format_figure(**apart, sign="+")])
    for place, name in enumerate(("seconds", "seconds of the processor")):
        without, with_ = (min(pair[place] for pair in seconds[side]) for side in (False, True))
        lines.append([name, f"{without:.1f}", f"{with_:.1f}", f"{with_ - without:+.1f} ({with_ / without - 1:+.1%})"])
    print_table(lines, f"{len(plain)} rows, {sum(reply.expected is not None for reply in said)} with expected scores")
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads of a CPU"
    print(f"on {where}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
