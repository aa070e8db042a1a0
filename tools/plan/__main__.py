"""What a recipe will need, and what is wrong with it, before anything is downloaded.

python -m tools.plan recipes/NAME [--gpus 8 --gpu h100-80gb --engine zero2] [--any_option value]

Resolves every training stage of the recipe (`sft*.yaml`, `grpo*.yaml`; or one file), builds its model without weights, and
prints parameters, tokens, steps, memory of one GPU by part, operations and time. `plan.yaml` says what is assumed where neither
the command line nor the data says it. Ends with status 1 where a stage could not run.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spatial_edit_reward.errors import UserError, one_line_errors

OUT = Console(highlight=False, soft_wrap=True)


def memory_table(title: str, parts: Mapping[str, int], card_memory: int, without: int | None) -> Table:
    from tools.plan.hardware import GIB

    table = Table("part", "GiB", title=title, title_justify="left", min_width=34)
    for name, size in parts.items():
        table.add_row(name, f"{size / GIB:.2f}")
    table.add_row("in all", f"{sum(parts.values()) / GIB:.2f} of {card_memory / GIB:.1f}", style="bold")
    if without is not None:
        table.add_row("in all, without checkpointing", f"{without / GIB:.2f}")
    return table


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path, help="the recipe's folder, or one stage's file")
    parser.add_argument("--gpus", type=int, help="how many GPUs in all")
    parser.add_argument("--gpu", help="the card, such as h100-80gb or cpu")
    parser.add_argument("--engine", help="the name of a file in recipes/accelerate")
    arguments, rest = parser.parse_known_args()
    if arguments.gpus is not None and arguments.gpus < 1:
        raise UserError("GPUS: at least 1")
    if not arguments.recipe.exists():
        raise UserError(f"{arguments.recipe}: no such recipe")

    from tools.plan.report import plan_stage, setting_of  # seconds to import
    from tools.plan.stage import load_stage, parse_overrides, stage_files

    overrides = parse_overrides(rest)
    folder = arguments.recipe if arguments.recipe.is_dir() else arguments.recipe.parent
    files = stage_files(folder) if arguments.recipe.is_dir() else [arguments.recipe]
    failed = False
    for file in files:
        stage = load_stage(file, overrides)
        setting = setting_of(stage, folder, arguments.gpu, arguments.gpus, arguments.engine)
        planned = plan_stage(setting, os.environ)
        OUT.print(f"[bold]== {file}[/bold]")
        OUT.print(escape(yaml.safe_dump(stage.written, sort_keys=True, allow_unicode=True).rstrip()), style="dim")
        for line in planned.lines:
            OUT.print(escape(line))
        for title, parts, without in planned.memory:
            OUT.print(memory_table(title, parts, planned.card.memory, without))
        for finding in planned.findings:
            OUT.print(f"[{'red' if finding.level == 'error' else 'yellow'}]{finding.level}:[/] {escape(finding.text)}")
        failed |= any(finding.level == "error" for finding in planned.findings)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
