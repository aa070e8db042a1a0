"""What the benchmarks share: the model, spec and held-out rows to measure on, how a figure is written, and the machine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from data.rows import load_rows
from data.stored_rows import StoredRows
from evaluation.recipe import EvalRecipe
from pipeline.figures import format_figure
from pipeline.folders import require
from pipeline.recipe import load_config
from spatial_edit_reward import Spec
from spatial_edit_reward.inference.backends import load_model_spec
from spatial_edit_reward.inference.request import Request


class Subject(NamedTuple):
    """What is measured. `model`: a folder or a Hub name. `rows`: canonical."""

    recipe: EvalRecipe
    model: str
    spec: Spec
    rows: StoredRows


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `load_subject` reads."""
    parser.add_argument(
        "--recipe", type=Path, default=Path("recipes/tiny"), help="recipe folder (default: %(default)s)"
    )
    parser.add_argument("--model", help="checkpoint (default: the recipe's merge)")
    parser.add_argument("--rows", type=Path, help="file of canonical rows (default: the recipe's held-out ones)")


def load_subject(arguments: argparse.Namespace) -> Subject:
    """The model and rows that `arguments` name, else the recipe's. Raises UserError for a stage that did not run."""
    recipe = load_config(arguments.recipe / "eval.yaml", EvalRecipe)
    model = arguments.model or str(require(recipe.run_dir / "merge", "merge"))
    spec = load_model_spec(model, None)
    rows = load_rows(arguments.rows or require(recipe.run_dir / "data" / "heldout.parquet", "data"), spec)
    return Subject(recipe, model, spec, rows)


def make_requests(rows: StoredRows) -> list[Request]:
    """One request for each of `rows`, in order; its key is the row's id."""
    return [Request(row["id"], row["task"], row["instruction"], row["images"]) for row in rows]


def format_interval(figures: Mapping[str, float | None], sign: str = "") -> str:
    """`figures` as `evaluation.metrics.interval` gives them: "0.500 [0.250, 0.625]"."""
    return format_figure(figures["mean"], figures["low"], figures["high"], sign)


def describe_machine() -> str:
    """The processor or GPU, the number of cores, and the load at this moment."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return f"on {device}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
