"""The rewards of a recipe's `grpo.yaml`, for what scores verdicts outside training: the report, mining, benchmarks."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from inspect import unwrap
from pathlib import Path
from typing import Any

from pipeline.recipe import read_yaml
from rewards_fn.load import COLUMNS, RULES, Reward, Selected, reward_names, select_rewards
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.schema import DEFAULT_SCORE_RANGE, ScoreRange

APPLIES_TO = 0.05  # of the rows: a reward that applies to fewer teaches nothing, however large its weight


def read_rewards(
    file: Path, columns: Collection[str] = COLUMNS, score_range: ScoreRange = DEFAULT_SCORE_RANGE
) -> Selected:
    """The rewards of the grpo.yaml `file` that `columns` suffice for, and their weights; see `select_rewards`.

    Says on stderr which rewards are left out, why, and what is counted, which may be nothing. Raises UserError for a recipe
    whose rewards cannot be loaded or do not match its weights.
    """
    recipe = read_yaml(file)
    try:
        selected = select_rewards(recipe.get("reward_funcs") or [], recipe.get("reward_weights"), columns, score_range)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None
    left_out = ", ".join(f"{name} ({reason})" for name, reason in selected.left_out.items())
    if left_out:
        names = reward_names(selected.rewards)
        counted = ", ".join(f"{name} x {weight:g}" for name, weight in zip(names, selected.weights, strict=True))
        print(f"rewards of {file}: {counted or 'none'}; left out: {left_out}", file=sys.stderr)
    return selected


def require_rewards(
    file: Path, columns: Collection[str] = COLUMNS, score_range: ScoreRange = DEFAULT_SCORE_RANGE
) -> Selected:
    """`read_rewards`, for what can do nothing without a reward. Raises UserError where all are left out, too."""
    selected = read_rewards(file, columns, score_range)
    if not selected.rewards:
        left_out = ", ".join(f"{name} ({reason})" for name, reason in selected.left_out.items())
        raise UserError(f"{file}: none of its rewards can be computed outside training: {left_out}")
    return selected


def require_applicable(rewards: Sequence[Reward], rows: Iterable[Mapping[str, Any]], file: Path) -> None:
    """Raises UserError for a built-in reward that applies to fewer than APPLIES_TO of the `rows`, which come from `file`.

    A user's own reward may apply to few rows for good reason, and is not judged.
    """
    rules = {
        name: rule for name, rule in zip(reward_names(rewards), rewards, strict=True) if unwrap(rule) in RULES.values()
    }
    applies, total = Counter[str](), 0
    for row in rows:
        total += 1
        for name, rule in rules.items():
            applies[name] += rule(completions=[""], reference=[row["reference"]], task=[row["task"]])[0] is not None
    for name in rules:
        if applies[name] < APPLIES_TO * total:
            raise UserError(
                f"{file}: {name} applies to {applies[name]} of {total} rows, fewer than {APPLIES_TO:.0%}: give `rl` a share of "
                "a source whose rows have what it reads (`splits` in data.yaml), or take it out of reward_funcs"
            )
