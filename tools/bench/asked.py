"""What the benchmarks of generation ask about: a checkpoint, its spec, and the held-out rows as questions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset

from data.rows import load_rows
from evaluation.recipe import EvalRecipe
from pipeline.folders import require
from pipeline.recipe import load_config
from spatial_edit_reward import Spec
from spatial_edit_reward.inference.backends import load_model_spec
from spatial_edit_reward.inference.request import Request


class Asked(NamedTuple):
    """`model`: a folder or a Hub name. `rows`: canonical."""

    recipe: EvalRecipe
    model: str
    spec: Spec
    rows: Dataset


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `asked` reads."""
    parser.add_argument(
        "--recipe", type=Path, default=Path("recipes/tiny"), help="recipe folder (default: %(default)s)"
    )
    parser.add_argument("--model", help="another checkpoint than the recipe's merge")
    parser.add_argument("--rows", type=Path, help="other canonical rows than the recipe's held-out ones")


def asked(arguments: argparse.Namespace) -> Asked:
    """What `arguments` name, or the recipe has. Raises UserError for a stage that did not run."""
    recipe = load_config(arguments.recipe / "eval.yaml", EvalRecipe)
    model = arguments.model or str(require(recipe.run_dir / "merge", "merge"))
    spec = load_model_spec(model, None)
    rows = load_rows(arguments.rows or require(recipe.run_dir / "data" / "heldout.parquet", "data"), spec)
    return Asked(recipe, model, spec, rows)


def questions_about(rows: Dataset) -> list[Request]:
    """One question for each of `rows`, in order."""
    return [Request(row["id"], row["task"], row["instruction"], row["images"]) for row in rows]
