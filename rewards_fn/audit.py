"""`python -m rewards_fn audit`: does a policy that looks at nothing, or spoils what it saw, earn what an honest one earns?

Every policy answers the same rows; the figure is the mean over rows of the weighted mean of the rewards that apply.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet
from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from rewards_fn.load import RULES, Reward, weighted_mean
from rewards_fn.policies import PADDING, Answer, blind, completion, honest, truth
from rewards_fn.score import Reference
from spatial_edit_reward import TASKS
from spatial_edit_reward.errors import UserError, one_line

NOISE = (0.0, 0.1, 0.2, 0.4)
# How much less than an honest verdict a policy must earn: a blind one than at BLIND_NOISE, a padding one than at its own noise.
MARGIN = {"blind": 0.10, "padding": 0.05}
BLIND_NOISE = 0.2


@dataclass(frozen=True)
class Played:
    """One policy's mean reward, 0..1, with what it must stay below; `by_reward`: each reward's mean where it applies."""

    kind: str
    name: str
    mean: float
    by_reward: dict[str, float | None]
    limit: float | None = None

    @property
    def earns_too_much(self) -> bool:
        return self.limit is not None and self.mean > self.limit


def audited_rewards(config: Path | None) -> tuple[dict[str, Reward], list[float]]:
    """The rule-based rewards of a grpo.yaml by name, and their weights; without one, the three with weight 1.

    Raises UserError for a recipe whose rewards cannot be loaded or do not match its weights.
    """
    if config is None:
        return dict(RULES), [1.0] * len(RULES)
    import importlib

    rewards, weights = importlib.import_module("pipeline.rewards").read_rewards(config)[1:3]
    left_out = []
    if left_out:
        print(
            f"left out, since they need more than a verdict and its reference: {', '.join(left_out)}", file=sys.stderr
        )
    if not rewards:
        raise UserError(f"{config}: none of {', '.join(RULES)} is among its reward_funcs")
    return {reward.__name__: reward for reward in rewards}, weights


def read_references(file: Path, count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """At most `count` random rows of `file`, without their images. Raises UserError for a file that holds no such rows."""
    if not file.is_file():
        raise UserError(f"{file}: no such file; `make data` makes the rows of a recipe")
    try:
        if file.suffix == ".parquet":
            found = parquet.read_table(file, columns=["task", "reference"])
            rows = found.take(np.sort(rng.permutation(len(found))[:count])).to_pylist()
        else:
            lines = file.read_text().splitlines()
            rows = [json.loads(lines[place]) for place in np.sort(rng.permutation(len(lines))[:count])]
        for row in rows:
            Reference.model_validate(row["reference"])
            if row["task"] not in TASKS:
                raise ValueError(f"task {row['task']!r} is not one of {', '.join(TASKS)}")
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"{file}: expected a .parquet or .jsonl file of canonical rows: {reason}") from None
    return rows


def play(
    rows: Sequence[dict[str, Any]], rewards: dict[str, Reward], weights: Sequence[float], seed: int
) -> list[Played]:
    """Every policy on `rows`: honest at each NOISE, then blind, then padding ones."""
    columns = {"reference": [row["reference"] for row in rows], "task": [row["task"] for row in rows]}
    answers = [truth(row["task"], row["reference"]) for row in rows]
    guesses = {task: blind(task, [a for a in answers if a.task == task]) for task in set(columns["task"])}
    honest_at: dict[float, float] = {}
    found = []

    @cache
    def dim(share: float) -> list[Answer]:
        rng = np.random.default_rng([seed, round(share * 1000)])
        return [honest(answer, share, rng) for answer in answers]

    def padded(spoil: Callable[[Answer, np.random.Generator], str], share: float) -> list[str]:
        rng = np.random.default_rng([seed, 1, round(share * 1000)])
        return [spoil(answer, rng) for answer in dim(share)]

    # (kind, name, noise, what it says)
    policies: list[tuple[str, str, float, Callable[[], list[str]]]] = [
        ("honest", f"{share:.0%} noise", share, partial(lambda share: [*map(completion, dim(share))], share))
        for share in NOISE
    ]
    policies += [
        ("blind", name, BLIND_NOISE, partial(lambda name: [completion(guesses[a.task][name]) for a in answers], name))
        for name in next(iter(guesses.values()))
    ]
    policies.append(("blind", "another row's verdict", BLIND_NOISE, lambda: [*map(completion, exchanged(answers))]))
    policies += [
        ("padding", f"{name}, {share:.0%} noise", share, partial(padded, spoil, share))
        for share in NOISE
        for name, spoil in PADDING.items()
    ]
    for kind, name, share, say in tqdm(policies, desc="audit", unit="policy", file=sys.stderr):
        said = say()
        values = {key: reward(prompts=[""] * len(said), completions=said, **columns) for key, reward in rewards.items()}
        total = mean([weighted_mean(row, weights) for row in zip(*values.values(), strict=True)]) or 0.0
        if kind == "honest":
            honest_at[share] = total
        limit = honest_at[share] - MARGIN[kind] if kind in MARGIN else None
        found.append(Played(kind, name, total, {key: mean(column) for key, column in values.items()}, limit))
    return found


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of what is not None; None where nothing is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def exchanged(answers: Sequence[Answer]) -> list[Answer]:
    """Every answer replaced by that of the row half a dataset on among those of its task."""
    by_task = {task: [answer for answer in answers if answer.task == task] for task in TASKS}
    turned = {task: iter(same[len(same) // 2 :] + same[: len(same) // 2]) for task, same in by_task.items()}
    return [next(turned[answer.task]) for answer in answers]


def table(found: Sequence[Played], rewards: Sequence[str], title: str) -> Table:
    result = Table(title=title, box=box.SIMPLE_HEAD)
    for name in ("policy", "reward", "allowed", *rewards):
        number = name != "policy"
        # Where the terminal is narrow the names wrap, never the numbers.
        result.add_column(name, justify="right" if number else "left", min_width=7 if number else None, overflow="fold")
    for one, following in zip(found, [*found[1:], found[-1]], strict=True):
        parts = [one.by_reward[name] for name in rewards]
        result.add_row(
            f"{one.kind}: {one.name}",
            f"{one.mean:.3f}{' !' if one.earns_too_much else ''}",
            "" if one.limit is None else f"{one.limit:.3f}",
            *("–" if part is None else f"{part:.3f}" for part in parts),
            style="bold red" if one.earns_too_much else None,
            end_section=following.kind != one.kind,
        )
    return result


def audit_file(file: Path, config: Path | None, count: int, seed: int) -> None:
    """Prints every policy's mean reward on `count` random rows of `file`; exits with status 1 where one earns too much.

    Raises UserError for a file or a recipe that cannot be audited.
    """
    rewards, weights = audited_rewards(config)
    rows = read_references(file, count, np.random.default_rng(seed))
    if not rows:
        raise UserError(f"{file}: no row with task {' or '.join(TASKS)}")
    found = play(rows, rewards, weights, seed)
    named = ", ".join(f"{name} x {weight:g}" for name, weight in zip(rewards, weights, strict=True))
    Console().print(table(found, list(rewards), f"{len(rows)} rows of {file}: {named}"))
    caught = [one for one in found if one.earns_too_much]
    if caught:
        sys.exit(f"{len(caught)} of {len(found)} policies earn too much: change the rewards or their weights")
