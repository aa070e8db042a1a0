"""`score_agreement`: how near the verdict's scores are to the reference's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spatial_edit_reward.checks import score_range_per_row, valid_scores
from spatial_edit_reward.parser import Completion, parse_or_none
from spatial_edit_reward.schema import DEFAULT_SCORE_RANGE, ScoreRange, Task

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
    score_range: ScoreRange | Sequence[ScoreRange] = DEFAULT_SCORE_RANGE,
    **kwargs: Any,
) -> list[float | None]:
    """Weighted mean over the two scores of kernel(|predicted - true|), 0..1.

    Args:
        completions: a text or a TRL message list per row.
        reference: per row, "score": two numbers within the row's range.
        task: "sc" or "pq" per row.
        kernel: "l1" is 1 - |predicted - true| / (high - low), "gaussian" exp(-(|predicted - true| / sigma)^2 / 2), "laplace"
            exp(-|predicted - true| / sigma).
        sigma: points, above 0.
        weights: of the first and the second score, relative to each other.
        score_range: (low, high) of a score, for all rows or one per row.

    Returns:
        0 where a score is missing, out of range or not finite, or the completion is unparsed.

    Raises:
        ValueError: an unknown kernel.

    >>> completion = '{"reasoning": "No visible artifacts.", "score": [20, 10]}'
    >>> score_agreement([completion], reference=[{"score": [15, 10]}], task=["pq"])
    [0.9]
    """
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}; known: {', '.join(KERNELS)}")
    ranges = score_range_per_row(score_range, len(completions))
    rewards: list[float | None] = []
    for completion, row, kind, (low, high) in zip(completions, reference, task, ranges, strict=True):
        verdict = parse_or_none(completion, kind)
        scores = None if verdict is None else valid_scores(verdict, (low, high))
        if scores is None:
            rewards.append(0.0)
            continue
        near = [KERNELS[kernel](abs(p - t), high - low, sigma) for p, t in zip(scores, row["score"], strict=True)]
        rewards.append(sum(w * n for w, n in zip(weights, near, strict=True)) / sum(weights))
    return rewards
