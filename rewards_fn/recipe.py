"""The rewards and weights of a `grpo.yaml`, for what judges verdicts outside training. Needs a checkout."""

from __future__ import annotations

from pathlib import Path

from pipeline.recipe import read_yaml
from rewards_fn.load import RULES, Reward, load_rewards
from spatial_edit_reward.errors import UserError


def own_rewards(file: Path) -> tuple[list[Reward], list[float], list[str]]:
    """The rewards that need no more than text and reference, their weights, and the names of those left out.

    Raises UserError for a recipe whose rewards cannot be loaded or do not match its weights.
    """
    recipe = read_yaml(file)
    entries = recipe.get("reward_funcs") or []
    weights = recipe.get("reward_weights") or [1.0] * len(entries)
    try:
        loaded = load_rewards(entries)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None
    if len(weights) != len(loaded):
        raise UserError(f"{file}: reward_weights: {len(weights)} for {len(loaded)} reward_funcs")
    names = [getattr(reward, "__name__", str(reward)) for reward in loaded]
    own = [place for place, name in enumerate(names) if name in RULES]
    left_out = [name for name in names if name not in RULES]
    return [loaded[place] for place in own], [weights[place] for place in own], left_out
