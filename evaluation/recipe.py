"""`eval.yaml` and `mine.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


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
