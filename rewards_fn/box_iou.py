"""`box_iou`: did the verdict find the edited regions, one to one, with nothing gained by extra or missing boxes?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spatial_edit_reward.boxes import Box, true_boxes, valid_box
from spatial_edit_reward.parser import Completion, parse_or_none
from spatial_edit_reward.schema import Task


def pairwise_iou(boxes: Sequence[Box], others: Sequence[Box]) -> np.ndarray:
    """(n, m) intersection over union of each of n boxes (x1, y1, x2, y2) of positive area with each of m; 0..1."""
    a, b = np.array(boxes)[:, None], np.array(others)
    shared = np.maximum(np.minimum(a[..., 2:], b[:, 2:]) - np.maximum(a[..., :2], b[:, :2]), 0.0).prod(axis=-1)
    return shared / ((a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[:, 2:] - b[:, :2]).prod(axis=-1) - shared)


def credit(overlap: np.ndarray, power: float, thresholds: Sequence[float] | None) -> np.ndarray:
    """What matched pairs of IoU `overlap` (any shape) earn, 0..1: overlap^power, or the share of `thresholds` reached.

    A power below 1 gives near misses partial credit; boxes that do not touch still earn exactly 0.
    """
    if thresholds is None:
        return overlap if power == 1.0 else overlap**power
    return (overlap[..., None] >= np.array(thresholds)).mean(axis=-1)


def matched_iou(
    predicted: Sequence[Box | None], true: Sequence[Box], power: float = 1.0, thresholds: Sequence[float] | None = None
) -> float:
    """Sum of credit over the best one-to-one matching (Hungarian), over max(number predicted, number true); 0..1.

    None among `predicted` is a malformed box: it counts as predicted and matches nothing. Both empty: 1; one empty: 0.
    `power`, `thresholds`: see `credit`; the plain credit is the IoU.
    """
    if not predicted and not true:
        return 1.0
    boxes = [box for box in predicted if box is not None]
    if not boxes or not true:
        return 0.0
    from scipy.optimize import linear_sum_assignment  # half a second to import

    pairs = credit(pairwise_iou(boxes, true), power, thresholds)
    rows, columns = linear_sum_assignment(pairs, maximize=True)
    # A sum of rounded shares can exceed the count by an ulp.
    return min(1.0, float(pairs[rows, columns].sum()) / max(len(predicted), len(true)))


def box_iou(
    completions: Sequence[Completion],
    reference: Sequence[Mapping[str, Any]],
    task: Sequence[Task],
    power: float = 1.0,
    thresholds: Sequence[float] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """Matched IoU of each completion's regions with its reference's, 0..1; see `matched_iou`.

    Args:
        completions: a text or a TRL message list per row.
        reference: per row, "edit_region": a list of regions with valid boxes, or null where they are unknown.
        task: "sc" or "pq" per row.
        power: above 0; thresholds: each in 0..1, 0 excluded. See `credit`; one of the two at most.

    Returns:
        None on `pq` rows and where the reference's regions are unknown; 0 for an unparsed completion.

    Raises:
        ValueError: a power or thresholds out of range, or both.

    >>> reference = {"edit_region": [{"id": 0, "label": "cup", "bbox_2d": [0, 0, 100, 100]}]}
    >>> completion = '{"edit_region": [{"bbox_2d": [0, 0, 50, 100]}], "reasoning": "", "score": []}'
    >>> box_iou([completion], [reference], task=["sc"])
    [0.5]
    """
    if power <= 0 or (thresholds is not None and (power != 1.0 or not thresholds)):
        raise ValueError("box_iou: give a power above 0, or a list of thresholds, not both")
    if not all(0 < threshold <= 1 for threshold in thresholds or ()):
        raise ValueError(f"box_iou: thresholds {thresholds} must be above 0 and at most 1")
    rewards: list[float | None] = []
    for completion, row, kind in zip(completions, reference, task, strict=True):
        if kind != "sc" or row["edit_region"] is None:
            rewards.append(None)
            continue
        verdict = parse_or_none(completion, kind)
        if verdict is None:
            rewards.append(0.0)
            continue
        predicted = [valid_box(region) for region in verdict.edit_region or ()]
        rewards.append(matched_iou(predicted, true_boxes(row), power, thresholds))
    return rewards
