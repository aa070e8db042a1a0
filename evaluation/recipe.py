"""`eval.yaml`, and the rewards and weights that the recipe's stage 2 is judged by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import UserError
from pipeline.recipe import read_yaml
from rewards_fn import RULES, load_rewards
from rewards_fn.load import Reward


class EvalRecipe(BaseModel):
    """What is evaluated, and how."""

    model_config = ConfigDict(extra="forbid")
    run_dir: Annotated[Path, Field(description="folder of the recipe's stages: runs/NAME")]
    base: Annotated[str, Field(description="the checkpoint that stage 1 started from")]
    rewards_from: Annotated[Path, Field(description="the grpo.yaml whose rewards and weights are used")]
    batch_size: Annotated[int, Field(gt=0)]
    bootstrap_samples: Annotated[int, Field(gt=0)] = 2000
    seed: int = 0
    gallery_rows: Annotated[int, Field(gt=0)] = 24

    def models(self) -> dict[str, tuple[str, Path | None]]:
        """Name -> (weights, adapter on them) of every model that is compared, in the order of training."""
        sft = str(self.run_dir / "sft" / "merged")
        return {
            "base": (self.base, None),
            "sft": (sft, None),
            "grpo": (sft, self.run_dir / "grpo" / "adapter"),
            "merged": (str(self.run_dir / "merge"), None),
        }

    def rewards(self) -> tuple[list[Reward], list[float]]:
        """The recipe's own rewards (those that need no more than text and reference) and their weights."""
        recipe = read_yaml(self.rewards_from)
        entries = recipe.get("reward_funcs") or []
        weights = recipe.get("reward_weights") or [1.0] * len(entries)
        try:
            loaded = load_rewards(entries)
        except ValueError as error:
            raise UserError(f"{self.rewards_from}: {error}") from None
        if len(weights) != len(loaded):
            raise UserError(f"{self.rewards_from}: reward_weights: {len(weights)} for {len(loaded)} reward_funcs")
        own = [(r, w) for r, w in zip(loaded, weights, strict=True) if getattr(r, "__name__", "") in RULES]
        return [reward for reward, _ in own], [weight for _, weight in own]
