"""`box_iou`: did the verdict find the edited regions, one to one, with nothing gained by extra or missing boxes?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from rewards_fn.completion import Box, Completion, box_of, true_boxes, verdict_of
from verdict import Task


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2) with positive area; 0..1, symmetric."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def matched_iou(predicted: Sequence[Box | None], true: Sequence[Box]) -> float:
    """Sum of IoU over the best one-to-one matching (Hungarian), over max(number predicted, number true); 0..1.

    None among `predicted` is a malformed box: it counts as predicted and matches nothing. Both empty: 1; one empty: 0.
    """
    if not predicted and not true:
        return 1.0
    boxes = [box for box in predicted if box is not None]
    if not boxes or not true:
        return 0.0
    pairs = np.array([[iou(box, other) for other in true] for box in boxes])
    rows, columns = linear_sum_assignment(pairs, maximize=True)
    # A sum of rounded shares can exceed the count by an ulp.
    return min(1.0, float(pairs[rows, columns].sum()) / max(len(predicted), len(true)))


def box_iou(
    completions: Sequence[Completion],
    reference: Sequence[Mapping[str, Any]],
    task: Sequence[Task],
    **kwargs: Any,
) -> list[float | None]:
    """Matched IoU of each completion's regions with its reference's, 0..1; see `matched_iou`.

    None on `pq` rows and where the reference's `edit_region` is null (unknown). An unparsed completion earns 0.
    """
    rewards: list[float | None] = []
    for completion, truth, kind in zip(completions, reference, task, strict=True):
        if kind != "sc" or truth["edit_region"] is None:
            rewards.append(None)
            continue
        verdict = verdict_of(completion, kind)
        if verdict is None:
            rewards.append(0.0)
            continue
        predicted = [box_of(region) for region in verdict.edit_region or ()]
        rewards.append(matched_iou(predicted, true_boxes(truth)))
    return rewards
