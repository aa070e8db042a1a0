"""`eval.yaml`: which models of a recipe's run are compared, and how."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from spatial_edit_reward.inference.backends import BackendName


class EvalRecipe(BaseModel):
    """What is evaluated, and how."""

    model_config = ConfigDict(extra="forbid")
    run_dir: Path = Field(description="folder of the recipe's stages: runs/NAME")
    base: str = Field(description="the checkpoint that stage 1 started from")
    rewards_from: Path = Field(description="the grpo.yaml whose rewards and weights are used")
    batch_size: int = Field(gt=0, description="completions generated at once")
    backend: BackendName = Field("transformers", description="what generates the held-out verdicts")
    bootstrap_samples: int = Field(2000, gt=0, description="resamples of every 95 % interval")
    seed: int = Field(0, description="of the resamples, and of the order of a benchmark's candidates")

    def models(self) -> dict[str, tuple[str, Path | None]]:
        """Name -> (weights, adapter on them) of every model that is compared, in the order of training.

        Stage 2 leaves an adapter on stage 1's weights, or without LoRA weights of its own.
        """
        sft, weights = str(self.run_dir / "sft" / "merged"), self.run_dir / "grpo" / "weights"
        return {
            "base": (self.base, None),
            "sft": (sft, None),
            "grpo": (str(weights), None) if weights.is_dir() else (sft, self.run_dir / "grpo" / "adapter"),
            "merged": (str(self.run_dir / "merge"), None),
        }
