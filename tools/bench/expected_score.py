"""What do expected scores change? Accuracy, tie rate and time on the held-out rows, with and without.

    python -m tools.bench.expected_score            # after `make demo`; some minutes

The same greedy verdicts, once scored by the digits they contain and once by expected scores. Both run in turn, `--rounds`
times, without the time to load the model; the shortest run of each counts, by the clock and by processor time, which other work
on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import time

from tqdm import tqdm

from evaluation.metrics import GroupSums, group_sums, interval, score_rows
from evaluation.terminal import print_table
from pipeline.rewards import read_rewards
from spatial_edit_reward.inference.backends import open_backend
from spatial_edit_reward.inference.request import Response
from tools.bench.common import add_options, describe_machine, format_interval, load_subject, make_requests

HALF = "ranking_accuracy, ties at half credit"
SHOWN = ("ranking_accuracy", HALF, "tie_rate", "score_mae")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=2, help="runs with and without (default: %(default)s)")
    arguments = parser.parse_args()
    recipe, model, spec, rows = load_subject(arguments)
    requests = make_requests(rows)

    seconds: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    responses: dict[str, Response] = {}
    for turn in range(2 * arguments.rounds):
        expected = turn % 2 == 1
        backend = open_backend("transformers", model, spec, batch_size=recipe.batch_size, expected_score=expected)
        start, worked = time.perf_counter(), time.process_time()
        name = f"verdicts {'with' if expected else 'without'} expected scores"
        new = {request.key: response for request, response in tqdm(backend(requests), name, len(requests), unit="row")}
        seconds[expected].append((time.perf_counter() - start, time.process_time() - worked))
        assert all(new[key].text == response.text for key, response in responses.items()), (
            "two runs differ in their text"
        )
        responses = new

    plain = list(rows.texts())
    ordered = [responses[row["id"]] for row in plain]
    selected = read_rewards(recipe.rewards_from, score_range=spec.score_range)
    scored = score_rows(
        plain, [response.text for response in ordered], selected.rewards, selected.weights, spec, rows.images()
    )
    smooth = [
        {**values, "scores": values["scores"] if response.expected is None else tuple(response.expected)}
        for values, response in zip(scored, ordered, strict=True)
    ]
    truncated = [response.truncated for response in ordered]
    written, expected_sums = (group_sums(plain, values, truncated, spec) for values in (scored, smooth))
    for sums in (written, expected_sums):
        right, tied = sums["ranking_accuracy"], sums["tie_rate"]
        sums[HALF] = GroupSums(right.numerator + tied.numerator / 2, right.denominator)
    lines = [["", "as written", "expected", "difference"]]
    for metric in SHOWN:
        both = [interval(sums[metric], recipe.bootstrap_samples, recipe.seed) for sums in (written, expected_sums)]
        apart = interval(expected_sums[metric], recipe.bootstrap_samples, recipe.seed, written[metric])
        lines.append([metric, *map(format_interval, both), format_interval(apart, "+")])
    for i, name in enumerate(("seconds", "seconds of processor time")):
        without, with_ = (min(pair[i] for pair in seconds[expected]) for expected in (False, True))
        lines.append([name, f"{without:.1f}", f"{with_:.1f}", f"{with_ - without:+.1f} ({with_ / without - 1:+.1%})"])
    print_table(lines, f"{len(plain)} rows, {sum(one.expected is not None for one in ordered)} with expected scores")
    print(describe_machine())


if __name__ == "__main__":
    main()
