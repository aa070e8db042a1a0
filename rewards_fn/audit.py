"""`python -m rewards_fn audit`: does a policy that sees no image, or pads its verdicts, earn as much as the ground truth?

Every policy answers the same rows; the figure is the mean over rows of the weighted mean of the rewards that apply.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rewards_fn.load import Reward, apply_rewards, reward_names, weighted_mean
from rewards_fn.policies import policies
from rewards_fn.score import Reference, named_rewards
from spatial_edit_reward import TASKS
from spatial_edit_reward.errors import UserError, one_line
from spatial_edit_reward.files import split_lines
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


def rewards_of_recipe(config: Path, score_range: ScoreRange = DEFAULT_SCORE_RANGE) -> tuple[list[Reward], list[float]]:
    """The rewards of a grpo.yaml that a reference suffices for, and their weights. Raises UserError for another file."""
    try:
        # Recipes are read by the checkout's own reader, which is not installed with the library.
        recipes = importlib.import_module("pipeline.rewards")
    except ModuleNotFoundError as error:
        raise UserError(
            f"--config needs a checkout of the repository ({error}): give --rewards and --weights"
        ) from None
    selected = recipes.read_rewards(config, COLUMNS, score_range)
    return selected.rewards, selected.weights


def parse_weights(text: str | None, rewards: Sequence[Reward]) -> list[float]:
    """The numbers of `--weights`, one per reward; None: 1 each. Raises ValueError for anything else."""
    weights = [1.0] * len(rewards) if text is None else [float(part) for part in text.split(",")]
    if len(weights) != len(rewards):
        raise ValueError(f"--weights: {len(weights)} for {len(rewards)} rewards")
    return weights


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
            lines = split_lines(file.read_text(encoding="utf-8"))
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
    rows: Sequence[dict[str, Any]],
    rewards: Sequence[Reward],
    weights: Sequence[float],
    seed: int,
    score_range: ScoreRange = DEFAULT_SCORE_RANGE,
) -> list[Result]:
    """What every policy earns on `rows`, in the order of `policies`."""
    columns = {"reference": [row["reference"] for row in rows], "task": [row["task"] for row in rows]}
    oracle: dict[float, float] = {}  # noise -> mean reward
    results = []
    for policy in tqdm(policies(rows, score_range, seed), desc="audit", unit="policy", file=sys.stderr):
        values = apply_rewards(rewards, policy.completions, columns)
        total = mean([weighted_mean(row, weights) for row in zip(*values, strict=True)]) or 0.0
        if policy.kind == "noisy oracle":
            oracle[policy.noise] = total
            limit = None
        else:
            limit = oracle[BLIND_NOISE if policy.kind == "blind" else policy.noise] - MARGIN[policy.kind]
        by_reward = {name: mean(column) for name, column in zip(reward_names(rewards), values, strict=True)}
        results.append(Result(policy.kind, policy.name, total, by_reward, limit))
    return results


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of what is not None; None where nothing is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def table(results: Sequence[Result], names: Sequence[str]) -> str:
    """The results as aligned columns, with a blank line between the kinds; "!" marks what earns too much."""
    lines = [["policy", "reward", "allowed", *names]]
    for i, result in enumerate(results):
        if i and result.kind != results[i - 1].kind:
            lines.append([])
        marked = f"{result.mean:.3f}{' !' if result.earns_too_much else ''}"
        figures = [result.limit, *(result.by_reward[name] for name in names)]
        shown = ["-" if figure is None else f"{figure:.3f}" for figure in figures]
        lines.append([f"{result.kind}: {result.name}", marked, *shown])
    widths = [max(len(line[i]) for line in lines if line) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        if line
        else ""
        for line in lines
    )


def audit_file(
    file: Path,
    config: Path | None,
    names: str,
    weights_text: str | None,
    score_range: ScoreRange | None,
    count: int,
    seed: int,
) -> None:
    """Prints every policy's mean reward on `count` random rows of `file`; exits with status 1 where one earns too much.

    The rewards are those of the recipe `config`, else `names` with `weights_text`, as on the command line. `score_range`: None
    for that of the verdict.json beside `file`, else 0..25. Raises UserError for what cannot be audited.
    """
    if score_range is None:
        beside = (file.parent / FILE_NAME).exists()
        score_range = load_spec(file.parent).score_range if beside else DEFAULT_SCORE_RANGE
    if config is not None:
        rewards, weights = rewards_of_recipe(config, score_range)
    else:
        try:
            rewards = list(named_rewards(names, COLUMNS, score_range).values())
            weights = parse_weights(weights_text, rewards)
        except ValueError as error:
            raise UserError(str(error)) from None
    rows = read_references(file, count, np.random.default_rng(seed), score_range)
    results = play(rows, rewards, weights, seed, score_range)
    counted = ", ".join(f"{name} x {weight:g}" for name, weight in zip(reward_names(rewards), weights, strict=True))
    print(f"{len(rows)} rows of {file}: {counted}\n\n{table(results, reward_names(rewards))}")
    caught = [result for result in results if result.earns_too_much]
    if caught:
        sys.exit(f"{len(caught)} of {len(results)} policies earn too much: change the rewards or their weights")
