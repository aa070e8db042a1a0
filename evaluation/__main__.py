"""Held-out evaluation: verdicts of every model, then the report over them.

python -m evaluation heldout --config recipes/tiny/eval.yaml
python -m evaluation report --config recipes/tiny/eval.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path

from data.rows import load_rows
from evaluation.recipe import EvalRecipe
from pipeline.errors import UserError, one_line_errors
from pipeline.fingerprint import already_made, begin, finish, finished, hash_files, hash_model
from pipeline.folders import need
from pipeline.recipe import load_model
from verdict import load_spec


def run_heldout(recipe: EvalRecipe, fresh: bool) -> None:
    from evaluation.heldout import write_verdicts

    rows_file = need(recipe.run_dir / "data" / "heldout.parquet", "data")
    for stage in ("sft", "grpo"):
        if not finished(recipe.run_dir / stage):
            raise UserError(
                f"{recipe.run_dir / stage} is not finished: run 'make {stage}' first (with the same RECIPE)"
            )
    need(recipe.run_dir / "merge", "merge")
    output = recipe.run_dir / "eval"
    fingerprint = {
        "rows": hash_files(rows_file),
        "models": {
            name: [hash_model(weights), hash_files(adapter) if adapter else None]
            for name, (weights, adapter) in recipe.models().items()
        },
    }
    if already_made(output, fingerprint, fresh):
        return
    begin(output, fingerprint)
    spec = load_spec(recipe.run_dir / "merge")
    rows = load_rows(rows_file, spec)
    for name, (weights, adapter) in recipe.models().items():
        write_verdicts(name, weights, adapter, rows, spec, recipe.batch_size, output / f"{name}.jsonl")
    finish(output, fingerprint)


def run_report(recipe: EvalRecipe) -> None:
    from evaluation.report import make_report

    if not finished(recipe.run_dir / "eval"):
        raise UserError(f"{recipe.run_dir / 'eval'} is not finished: run 'make eval' first (with the same RECIPE)")
    spec = load_spec(need(recipe.run_dir / "merge", "merge"))
    make_report(recipe, load_rows(need(recipe.run_dir / "data" / "heldout.parquet", "data"), spec), spec)


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=["heldout", "report"], help="write verdicts, or the report over them")
    parser.add_argument("--config", type=Path, required=True, help="the recipe's eval.yaml")
    parser.add_argument("--fresh", action="store_true", help="start over")
    arguments = parser.parse_args()
    recipe = load_model(arguments.config, EvalRecipe)
    if arguments.verb == "heldout":
        run_heldout(recipe, arguments.fresh)
    else:
        run_report(recipe)


if __name__ == "__main__":
    main()
