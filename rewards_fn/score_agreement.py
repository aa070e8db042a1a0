"""`score_agreement`: how near the verdict's scores are to the reference's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spatial_edit_reward import Task
from spatial_edit_reward.checks import valid_scores
from spatial_edit_reward.parser import Completion, parse_or_none

# Each kernel turns |predicted - true| (in points) into 0..1; `span` is the score range's width, `sigma` a scale in points.
KERNELS: dict[str, Callable[[float, float, float], float]] = {
    "l1": lambda error, span, sigma: 1 - error / span,
    "gaussian": lambda error, span, sigma: math.exp(-0.5 * (error / sigma) ** 2),
    "laplace": lambda error, span, sigma: math.exp(-error / sigma),
}


def score_agreement(
    completions: Sequence[Completion],
    reference: Sequence[Mapping[str, Any]],
    task: Sequence[Task],
    kernel: str = "l1",
    sigma: float = 3.0,
    weights: tuple[float, float] = (0.5, 0.5),
    score_range: tuple[float, float] = (0.0, 25.0),
    **kwargs: Any,
) -> list[float | None]:
    """Weighted mean over the two scores of kernel(|predicted - true|), 0..1; "l1" is 1 - |predicted - true| / range.

    0 where a score is missing, out of range or not finite, or the completion is unparsed. `sigma`: points, for the
    "gaussian" and "laplace" kernels. Raises ValueError for an unknown kernel.
    """
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}; known: {', '.join(KERNELS)}")
    span = score_range[1] - score_range[0]
    rewards: list[float | None] = []
    for completion, truth, kind in zip(completions, reference, task, strict=True):
        verdict = parse_or_none(completion, kind)
        scores = None if verdict is None else valid_scores(verdict, score_range)
        if scores is None:
            rewards.append(0.0)
            continue
        near = [KERNELS[kernel](abs(p - t), span, sigma) for p, t in zip(scores, truth["score"], strict=True)]
        rewards.append(sum(w * n for w, n in zip(weights, near, strict=True)) / sum(weights))
    return rewards
