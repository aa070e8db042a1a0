"""Command line of the rewards: `python -m rewards_fn score FILE.jsonl` and `python -m rewards_fn audit DATASET`."""

from __future__ import annotations

import argparse
from pathlib import Path


def parser() -> argparse.ArgumentParser:
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
    score.add_argument(
        "--rewards",
        default="box_iou,score_agreement,format",
        help="names with commas between, or a JSON list as in a recipe's reward_funcs (default: %(default)s)",
    )
    audit = verbs.add_parser(
        "audit",
        help="what bad policies would earn on a dataset's references",
        description="Plays policies that know nothing of a row, and policies that spoil an honest verdict, against a dataset's "
        "references. Exits with status 1 where one of them earns too much.",
    )
    audit.add_argument("dataset", type=Path, help="canonical rows: a .parquet or .jsonl file")
    audit.add_argument(
        "--config",
        type=Path,
        help="a grpo.yaml whose reward_funcs and reward_weights are audited (default: the three, 1 each)",
    )
    audit.add_argument("--rows", type=int, default=4000, help="rows played, drawn at random (default: %(default)s)")
    audit.add_argument("--seed", type=int, default=0, help="of every random choice (default: %(default)s)")
    return top


def main() -> None:
    arguments = parser().parse_args()
    if arguments.verb == "score":
        from rewards_fn.score import score_file

        score_file(arguments.file, arguments.rewards)
    else:
        # Needs a checkout: recipes, datasets, rich.
        from rewards_fn.audit import audit_file
        from spatial_edit_reward.errors import one_line_errors

        one_line_errors(lambda: audit_file(arguments.dataset, arguments.config, arguments.rows, arguments.seed))()


if __name__ == "__main__":
    main()
