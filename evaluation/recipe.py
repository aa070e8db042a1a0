"""`eval.yaml` and `mine.yaml`, and the rewards and weights that the recipe's stage 2 is judged by."""

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


class MineRecipe(BaseModel):
    """`mine.yaml`: which rows are candidates, how the model is sampled, and what is kept."""

    model_config = ConfigDict(extra="forbid")
    run_dir: Annotated[Path, Field(description="folder of the recipe's stages: runs/NAME")]
    rewards_from: Annotated[Path, Field(description="the grpo.yaml whose rewards and weights are used")]
    candidates: Annotated[Path | None, Field(description="canonical rows; null: the data stage's rl.parquet")] = None
    samples: Annotated[int, Field(ge=2, description="verdicts per row")]
    temperature: Annotated[float, Field(gt=0)]
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    lowest_mean: Annotated[float, Field(ge=0, le=1, description="a row below earns nothing: hopeless")]
    highest_mean: Annotated[float, Field(ge=0, le=1, description="a row above is easy")]
    lowest_spread: Annotated[float, Field(ge=0, le=1, description="standard deviation over a row's samples")]
    at_most: Annotated[int, Field(gt=0, description="rows kept, lowest means first")] = 7000
    batch_size: Annotated[int, Field(gt=0, description="completions generated at once")]
    seed: int = 0


def own_rewards(file: Path) -> tuple[list[Reward], list[float]]:
    """The rewards of a grpo.yaml that need no more than text and reference, and their weights. Raises UserError."""
    recipe = read_yaml(file)
    entries = recipe.get("reward_funcs") or []
    weights = recipe.get("reward_weights") or [1.0] * len(entries)
    try:
        loaded = load_rewards(entries)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None
    if len(weights) != len(loaded):
        raise UserError(f"{file}: reward_weights: {len(weights)} for {len(loaded)} reward_funcs")
    own = [(r, w) for r, w in zip(loaded, weights, strict=True) if getattr(r, "__name__", "") in RULES]
    return [reward for reward, _ in own], [weight for _, weight in own]
