"""Rule-based verifiable rewards for edit verdicts, with TRL's reward function signature. Imports no torch.

Every reward is a function `(completions, reference, task, **kwargs) -> list[float | None]` with values in 0..1, and None
where it does not apply to a row. None of them raises on a completion, whatever it holds.
"""

from rewards_fn.box_iou import box_iou
from rewards_fn.format import format
from rewards_fn.load import KNOWN, RULES, load_rewards, weighted_mean
from rewards_fn.score_agreement import score_agreement

__all__ = ["KNOWN", "RULES", "box_iou", "format", "load_rewards", "score_agreement", "weighted_mean"]
