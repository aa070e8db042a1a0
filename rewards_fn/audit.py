"""`python -m rewards_fn audit`: does a policy that sees no image, or pads its verdicts, earn as much as the ground truth?

Every policy answers the same rows; the figure is the mean over rows of the weighted mean of the rewards that apply.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rewards_fn.load import Selected, apply_rewards, reward_names, weighted_mean
from rewards_fn.policies import policies
from rewards_fn.score import Reference, parse_rewards
from spatial_edit_reward import TASKS
from spatial_edit_reward.errors import UserError, one_line
from spatial_edit_reward.schema import DEFAULT_SCORE_RANGE, ScoreRange
from spatial_edit_reward.spec import FILE_NAME, load_spec

# How much less than the ground truth with noise a policy must earn: a blind one than at BLIND_NOISE, a padding one than at its
# own noise.
MARGIN = {"blind": 0.10, "padding": 0.05}
BLIND_NOISE = 0.2
# What a reward can be given.
COLUMNS = ("prompts", "completions", "reference", "task")


@dataclass(frozen=True)
class Result:
    """One policy's mean reward, 0..1, with what it must stay below; `by_reward`: each reward's mean where it applies."""

    kind: str
    name: str
    mean: float
    by_reward: dict[str, float | None]
    limit: float | None = None

    @property
    def earns_too_much(self) -> bool:
        return self.limit is not None and self.mean > self.limit


def read_recipe(config: Path, score_range: ScoreRange = DEFAULT_SCORE_RANGE) -> Selected:
    """The rewards of a grpo.yaml that a reference suffices for. Raises UserError for another file, or without a checkout."""
    try:
        # Recipes are read by the checkout's own reader, which is not installed with the library.
        recipes = importlib.import_module("pipeline.rewards")
    except ModuleNotFoundError as error:
        raise UserError(
            f"--config needs a checkout of the repository ({error}): give --rewards and --weights"
        ) from None
    selected: Selected = recipes.require_rewards(config, COLUMNS, score_range)
    return selected


def read_references(
    file: Path, count: int, rng: np.random.Generator, score_range: ScoreRange = DEFAULT_SCORE_RANGE
) -> list[dict[str, Any]]:
    """At most `count` random rows of `file`, without their images. Raises UserError for a file that holds no such rows."""
    if not file.is_file():
        raise UserError(f"{file}: no such file; `make data` makes the rows of a recipe")
    try:
        if file.suffix == ".parquet":
            from pyarrow import parquet

            table = parquet.read_table(file, columns=["task", "reference"])
            rows = table.take(np.sort(rng.permutation(len(table))[:count])).to_pylist()
        else:
            with file.open(encoding="utf-8-sig") as opened:  # not str.splitlines, which also splits at U+2028
                lines = [line for line in opened if line.strip()]
            rows = [json.loads(lines[i]) for i in np.sort(rng.permutation(len(lines))[:count])]
        for row in rows:
            Reference.model_validate(row["reference"], context={"score_range": score_range})
            if row["task"] not in TASKS:
                raise ValueError(f"task {row['task']!r} is not one of {', '.join(TASKS)}")
    except ImportError:
        raise UserError(
            f"{file}: needs pyarrow: pip install 'spatial-edit-reward[parquet]', or give JSON lines"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's are ValueErrors and OSErrors too
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"{file}: expected a .parquet or .jsonl file of canonical rows: {reason}") from None
    if not rows:
        raise UserError(f"{file}: no row with task {' or '.join(TASKS)}")
    return rows


def play(
    rows: Sequence[dict[str, Any]], selected: Selected, seed: int, score_range: ScoreRange = DEFAULT_SCORE_RANGE
) -> list[Result]:
    """What every policy earns on `rows` with the selected rewards, in the order of `policies`."""
    columns = {"reference": [row["reference"] for row in rows], "task": [row["task"] for row in rows]}
    names = reward_names(selected.rewards)
    oracle: dict[float, float] = {}  # noise -> mean reward
    results = []
    for policy in tqdm(policies(rows, score_range, seed), desc="audit", unit="policy", file=sys.stderr):
        values = apply_rewards(selected.rewards, policy.completions, columns)
        total = mean([weighted_mean(row, selected.weights) for row in zip(*values, strict=True)]) or 0.0
        if policy.kind == "noisy oracle":
            oracle[policy.noise] = total
            limit = None
        else:
            limit = oracle[BLIND_NOISE if policy.kind == "blind" else policy.noise] - MARGIN[policy.kind]
        by_reward = {name: mean(column) for name, column in zip(names, values, strict=True)}
        results.append(Result(policy.kind, policy.name, total, by_reward, limit))
    return results


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of what is not None; None where nothing is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def format_table(results: Sequence[Result], names: Sequence[str]) -> str:
    """The results as aligned columns, with a blank line between the kinds; "!" marks what earns too much."""
    width = max(len(f"{result.kind}: {result.name}") for result in results)
    widths = [max(9, len(name)) for name in ("reward", "allowed", *names)]

    def line(first: str, cells: Sequence[str]) -> str:
        return "  ".join([first.ljust(width), *(cell.rjust(w) for cell, w in zip(cells, widths, strict=True))])

    lines = [line("policy", ["reward", "allowed", *names])]
    for i, result in enumerate(results):
        figures = [result.mean, result.limit, *(result.by_reward[name] for name in names)]
        cells = ["-" if figure is None else f"{figure:.3f}" for figure in figures]
        cells[0] += " !" if result.earns_too_much else ""
        lines += [""] * (i > 0 and result.kind != results[i - 1].kind)
        lines.append(line(f"{result.kind}: {result.name}", cells))
    return "\n".join(lines)


def audit(arguments: argparse.Namespace, score_range: ScoreRange | None) -> None:
    """Prints every policy's mean reward on random rows of a dataset; exits with status 1 where one earns too much.

    `arguments`: of `python -m rewards_fn audit`. `score_range`: None for that of the verdict.json beside the dataset, else
    0..25. Raises UserError for what cannot be audited.
    """
    file: Path = arguments.dataset
    if score_range is None:
        beside = (file.parent / FILE_NAME).exists()
        score_range = load_spec(file.parent).score_range if beside else DEFAULT_SCORE_RANGE
    try:
        if arguments.config is not None:
            selected = read_recipe(arguments.config, score_range)
        else:
            selected = parse_rewards(arguments.rewards, COLUMNS, score_range, arguments.weights)
    except ValueError as error:
        raise UserError(str(error)) from None
    rows = read_references(file, arguments.rows, np.random.default_rng(arguments.seed), score_range)
    results = play(rows, selected, arguments.seed, score_range)
    names = reward_names(selected.rewards)
    counted = ", ".join(f"{name} x {weight:g}" for name, weight in zip(names, selected.weights, strict=True))
    print(f"{len(rows)} rows of {file}: {counted}\n\n{format_table(results, names)}")
    caught = [result for result in results if result.earns_too_much]
    if caught:
        sys.exit(f"{len(caught)} of {len(results)} policies earn too much: change the rewards or their weights")
