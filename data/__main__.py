"""The data stage: makes the canonical rows of every split and the spec that travels with the checkpoints.

    python -m data --config recipes/tiny/data.yaml

Writes `train`, `validation`, `rl` and `heldout` Parquet files, `verdict.json` and `data_report.json` into the recipe's
`output_dir`. Splits are disjoint ranges of the generator's groups, so that no picture is in two of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data.splits import DataRecipe, make_splits
from data.synthetic.generate import photographs
from pipeline.errors import UserError, one_line_errors
from pipeline.fingerprint import already_made, finish, hash_files, write_json
from pipeline.folders import whole_folder
from pipeline.recipe import load_model
from verdict import Spec, save_spec


def print_report(report: dict[str, dict[str, int]]) -> None:
    table = Table(title="rows")
    for name in ("split", "rows", "sc", "pq", "sc with region"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split, counts in report.items():
        table.add_row(split, *(str(counts[key]) for key in ("rows", "sc", "pq", "sc_with_region")))
    Console().print(table)


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="the recipe's data.yaml")
    parser.add_argument("--output_dir", type=Path, help="where to write (default: the recipe's)")
    parser.add_argument("--fresh", action="store_true", help="start over")
    arguments = parser.parse_args()
    overrides = {"output_dir": arguments.output_dir} if arguments.output_dir else {}
    recipe = load_model(arguments.config, DataRecipe, overrides)
    fingerprint: dict[str, Any] = {"recipe": recipe.model_dump(mode="json", exclude={"output_dir"})}
    if recipe.photographs:
        try:
            photographs(recipe.photographs, recipe.side)
        except FileNotFoundError as error:
            raise UserError(str(error)) from None
        fingerprint["photographs"] = hash_files(recipe.photographs)
    if already_made(recipe.output_dir, fingerprint, arguments.fresh):
        return
    spec = Spec(pixels=recipe.pixels, max_new_tokens=recipe.max_new_tokens)
    with whole_folder(recipe.output_dir) as folder:
        report = make_splits(recipe, spec, folder)
        save_spec(spec, folder)
        write_json(folder / "data_report.json", report)
        finish(folder, fingerprint)
    print_report(report)


if __name__ == "__main__":
    main()
