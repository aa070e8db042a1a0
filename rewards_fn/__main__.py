"""Command line of the rewards: `python -m rewards_fn score FILE.jsonl` and `python -m rewards_fn audit DATASET`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rewards_fn.load import RULES
from spatial_edit_reward import UserError
from spatial_edit_reward.errors import one_line_errors
from spatial_edit_reward.schema import DEFAULT_SCORE_RANGE


def parse_arguments() -> argparse.Namespace:
    top = argparse.ArgumentParser(prog="python -m rewards_fn", description="Score verdicts, and audit the rewards.")
    verbs = top.add_subparsers(dest="verb", required=True)
    score = verbs.add_parser(
        "score",
        help="the rewards of every line of a JSONL file",
        description='Reads rows {"task", "completion", "reference"} (other keys pass through) and writes the same rows in the '
        'same order to stdout, each with "rewards" {name: number or null} and, where a verdict is not valid, "why". '
        "A summary goes to stderr.",
    )
    score.add_argument("file", help="JSON lines, or - for stdin")
    audit = verbs.add_parser(
        "audit",
        help="what bad policies would earn on a dataset's references",
        description="Plays policies that see no image, and policies that pad their verdicts, against a dataset's references. "
        "Exits with status 1 where one of them earns too much.",
    )
    audit.add_argument(
        "dataset", type=Path, help="canonical rows: a .jsonl file, or .parquet where pyarrow is installed"
    )
    audit.add_argument(
        "--config", type=Path, help="take rewards and weights from this grpo.yaml instead (needs a checkout)"
    )
    audit.add_argument("--weights", type=float, nargs="+", help="of the rewards (default: 1 each)")
    audit.add_argument("--rows", type=int, default=4000, help="rows played, drawn at random (default: %(default)s)")
    audit.add_argument("--seed", type=int, default=0, help="of every random choice (default: %(default)s)")
    for verb, default in ((score, "0 25"), (audit, "that of the verdict.json beside the dataset, else 0 25")):
        verb.add_argument(
            "--rewards",
            default=",".join(RULES),
            help="names with commas between, or a JSON list as in a recipe's reward_funcs (default: %(default)s)",
        )
        verb.add_argument(
            "--score_range", type=float, nargs=2, metavar=("LOW", "HIGH"), help=f"of the scores (default: {default})"
        )
    return top.parse_args()


@one_line_errors
def main() -> None:
    arguments = parse_arguments()
    score_range = arguments.score_range and tuple(arguments.score_range)
    if score_range is not None and not -1e6 <= score_range[0] < score_range[1] <= 1e6:
        raise UserError(f"--score_range {score_range[0]:g} {score_range[1]:g}: LOW must be below HIGH")
    if arguments.verb == "score":
        from rewards_fn.score import score_file

        score_file(arguments.file, arguments.rewards, score_range or DEFAULT_SCORE_RANGE)
    else:
        from rewards_fn.audit import audit

        audit(arguments, score_range)


if __name__ == "__main__":
    main()
