"""From what a trainer hands over to numbers that a reward can trust: texts, verdicts, finite numbers, boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from verdict import ParseFailure, Task, Verdict, parse

Completion = str | Sequence[Mapping[str, Any]]
Box = tuple[float, float, float, float]


def text_of(completion: Completion) -> str:
    """The text of a completion: itself, or the contents of a TRL message list (strings or typed parts) joined.

    What is no text (a tool call, a None) counts as none, so that a reward never raises.
    """
    if isinstance(completion, str):
        return completion
    parts: list[Any] = []
    for message in completion if isinstance(completion, Sequence) else ():
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, str):
            parts.append(content)
        elif isinstance(content, Sequence):
            parts += [part.get("text") for part in content if isinstance(part, Mapping)]
    return "".join(part for part in parts if isinstance(part, str))


# Three rewards look at the same completion one after another: parse it once. Sized for a large generation batch.
@lru_cache(maxsize=4096)
def verdict_or_reason(text: str, task: Task) -> Verdict | str:
    """The text's verdict by the strict parser, or why it is none. The verdict is shared: do not change it."""
    try:
        return parse(text, task)
    except ParseFailure as failure:
        return str(failure)


def verdict_of(completion: Completion, task: Task) -> Verdict | None:
    """The completion's verdict; None where it is unparsed. The verdict is shared: do not change it."""
    found = verdict_or_reason(text_of(completion), task)
    return None if isinstance(found, str) else found


def finite(value: Any) -> float | None:
    """`value` as a float if it is a JSON number that is finite as one, else None (booleans and strings are no numbers)."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return None
    return None


def true_boxes(reference: Mapping[str, Any]) -> list[Box]:
    """The boxes of a reference's regions, as floats."""
    corners = [region["bbox_2d"] for region in reference["edit_region"]]
    return [(float(x1), float(y1), float(x2), float(y2)) for x1, y1, x2, y2 in corners]


def box_of(region: Any) -> Box | None:
    """A region's box if it is well formed: four finite numbers in 0..1000 with x1 < x2 and y1 < y2; else None."""
    corners = region.get("bbox_2d") if isinstance(region, dict) else None
    if not isinstance(corners, list) or len(corners) != 4:
        return None
    numbers = [finite(corner) for corner in corners]
    x1, y1, x2, y2 = numbers
    if x1 is None or y1 is None or x2 is None or y2 is None:
        return None
    return (x1, y1, x2, y2) if 0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000 else None


def scores_of(verdict: Verdict, score_range: tuple[float, float]) -> tuple[float, float] | None:
    """The verdict's two scores if they are two finite numbers within `score_range`, else None."""
    if len(verdict.score) != 2:
        return None
    low, high = score_range
    first, second = finite(verdict.score[0]), finite(verdict.score[1])
    if first is None or second is None or not (low <= first <= high and low <= second <= high):
        return None
    return first, second
