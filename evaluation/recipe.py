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
