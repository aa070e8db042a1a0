"""What a recipe needs, and what is wrong with it, before anything is downloaded.

    python -m tools.plan recipes/NAME [--gpus 8 --gpu h100-80gb --engine zero2] [--any_option value]

For every training stage of the recipe (`sft*.yaml`, `grpo*.yaml`; or one file), builds the model without weights and prints
parameters, tokens, steps, memory of one GPU by part, operations and time. Hardware and rows are those of the recipe's
`plan.yaml`, except where the command line or the data gives others. Exits with status 1 if a stage could not run.
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

CONSOLE = Console(highlight=False, soft_wrap=True)


def memory_table(title: str, parts: Mapping[str, int], card_memory: int, without: int | None) -> Table:
    from tools.plan.hardware import GIB

    table = Table("part", "GiB", title=title, title_justify="left", min_width=34)
    for name, size in parts.items():
        table.add_row(name, f"{size / GIB:.2f}")
    table.add_row("total", f"{sum(parts.values()) / GIB:.2f} of {card_memory / GIB:.1f}", style="bold")
    if without is not None:
        table.add_row("total without checkpointing", f"{without / GIB:.2f}")
    return table


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path, help="recipe folder, or one stage's file")
    parser.add_argument("--gpus", type=int, help="number of GPUs, all machines together")
    parser.add_argument("--gpu", help="GPU model, such as h100-80gb; or cpu")
    parser.add_argument("--engine", help="engine: the name of a file in recipes/accelerate")
    arguments, rest = parser.parse_known_args()
    if arguments.gpus is not None and arguments.gpus < 1:
        raise UserError("GPUS: at least 1")
    if not arguments.recipe.exists():
        raise UserError(f"{arguments.recipe}: no such recipe")

    from tools.plan.report import load_setting, plan_stage  # seconds to import
    from tools.plan.sampling import describe_sampling
    from tools.plan.stage import load_stage, parse_overrides, stage_files

    overrides = parse_overrides(rest)
    folder = arguments.recipe if arguments.recipe.is_dir() else arguments.recipe.parent
    files = stage_files(folder) if arguments.recipe.is_dir() else [arguments.recipe]
    failed, sampling = False, []
    for file in files:
        stage = load_stage(file, overrides)
        setting = load_setting(stage, folder, arguments.gpu, arguments.gpus, arguments.engine)
        planned = plan_stage(setting, os.environ)
        CONSOLE.print(f"[bold]== {file}[/bold]")
        CONSOLE.print(escape(yaml.safe_dump(stage.written, sort_keys=True, allow_unicode=True).rstrip()), style="dim")
        for line in planned.lines:
            CONSOLE.print(escape(line))
        for title, parts, without in planned.memory:
            CONSOLE.print(memory_table(title, parts, planned.card.memory, without))
        for problem in planned.problems:
            CONSOLE.print(
                f"[{'red' if problem.level == 'error' else 'yellow'}]{problem.level}:[/] {escape(problem.text)}"
            )
        failed |= any(problem.level == "error" for problem in planned.problems)
        if arguments.recipe.is_dir() and file == files[0]:
            sampling = describe_sampling(setting, folder)
    if sampling:
        CONSOLE.print(f"[bold]== {folder}: mining and evaluation[/bold]")
    for line in sampling:
        CONSOLE.print(escape(line))
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
