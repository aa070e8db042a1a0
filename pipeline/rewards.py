"""The rewards of a recipe's `grpo.yaml`, for what scores verdicts outside training: the report, mining, benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

from pipeline.recipe import read_yaml
from rewards_fn.load import COLUMNS, Selected, reward_names, select_rewards
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.schema import DEFAULT_SCORE_RANGE, ScoreRange


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
