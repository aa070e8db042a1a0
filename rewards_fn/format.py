"""`format`: the weighted share of checks that a verdict passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spatial_edit_reward.checks import failed_checks, score_range_per_row
from spatial_edit_reward.parser import Completion, parse_or_none
from spatial_edit_reward.schema import DEFAULT_SCORE_RANGE, ScoreRange, Task

# task -> what each check of `failed_checks` is worth; a task's weights are shares of 1. Bad boxes and scores cost the other
# rewards too, so most of the weight is on the reasoning, which no other reward reads; `python -m rewards_fn audit` shows
# whether it is enough.
WEIGHTS: dict[str, dict[str, float]] = {
    "sc": {
        "ids_in_order": 0.05,
        "boxes_well_formed": 0.10,
        "two_scores_in_range": 0.10,
        "every_region_cited": 0.10,
        "no_cite_without_region": 0.05,
        "has_global_tag": 0.10,
        "tags_followed_by_words": 0.30,
        "reasoning_not_empty": 0.20,
    },
    "pq": {"two_scores_in_range": 0.30, "no_tags": 0.30, "reasoning_not_empty": 0.40},
}
# A region without a label costs what one without a box does, and both together cost it once.
COUNTED_AS = {"labels_not_empty": "boxes_well_formed"}


def format(
    completions: Sequence[Completion],
    task: Sequence[Task],
    score_range: ScoreRange | Sequence[ScoreRange] = DEFAULT_SCORE_RANGE,
    **kwargs: Any,
) -> list[float | None]:
    """The weighted share of the contract's checks that each completion passes, 0..1; see `failed_checks` and WEIGHTS.

    Args:
        completions: a text or a TRL message list per row.
        task: "sc" or "pq" per row.
        score_range: (low, high) of a score, for all rows or one per row.

    Returns:
        0 where a completion is unparsed, exactly 1.0 where it is a valid verdict.

    >>> format(['{"reasoning": "No visible artifacts.", "score": [20, 11]}'], task=["pq"])
    [1.0]
    >>> format(['{"reasoning": "No visible artifacts.", "score": [20, 11]}'], task=["pq"], score_range=(0, 10))
    [0.7]
    """
    ranges = score_range_per_row(score_range, len(completions))
    rewards: list[float | None] = []
    for completion, kind, limits in zip(completions, task, ranges, strict=True):
        verdict = parse_or_none(completion, kind)
        if verdict is None:
            rewards.append(0.0)
            continue
        failed = {COUNTED_AS.get(name, name) for name in failed_checks(verdict, limits)}
        rewards.append(max(0.0, 1.0 - sum(weight for name, weight in WEIGHTS[kind].items() if name in failed)))
    return rewards
