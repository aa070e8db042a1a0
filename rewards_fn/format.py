"""`format`: the weighted share of checks that a verdict passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spatial_edit_reward.checks import CHECKS
from spatial_edit_reward.parser import Completion, parse_or_none
from spatial_edit_reward.schema import Task


def format(completions: Sequence[Completion], task: Sequence[Task], **kwargs: Any) -> list[float | None]:
    """The weighted share of CHECKS that each completion passes, 0..1: 0 where it is unparsed, exactly 1.0 where valid."""
    rewards: list[float | None] = []
    for completion, kind in zip(completions, task, strict=True):
        verdict = parse_or_none(completion, kind)
        if verdict is None:
            rewards.append(0.0)
            continue
        failed = sum(weight for check, weight in CHECKS[kind] if not check(verdict))
        rewards.append(max(0.0, 1.0 - failed))
    return rewards
