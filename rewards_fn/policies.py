"""What the audit plays against a dataset: honest verdicts with noise, policies that see nothing, verdicts spoilt on purpose.

An *answer* is a (regions, reasoning, scores) triple before it is written as JSON; regions are None for `pq`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

import numpy as np

from spatial_edit_reward import GLOBAL_TAG, Task
from spatial_edit_reward.boxes import Box, true_boxes
from spatial_edit_reward.schema import DEFAULT_SCORE_RANGE as SCORE_RANGE
from spatial_edit_reward.schema import KEYS, TAG

GRID = 3
WHOLE: Box = (0.0, 0.0, 1000.0, 1000.0)


@dataclass(frozen=True)
class Answer:
    """A verdict in the making. `boxes`: 0..1000, None for `pq`; `scores`: the two, in points."""

    task: Task
    boxes: tuple[Box, ...] | None
    reasoning: str
    scores: tuple[float, float]


def completion(answer: Answer) -> str:
    """The answer written as the JSON that its task asks for."""
    boxes = enumerate(answer.boxes or ())
    parts = {
        "edit_region": [{"id": place, "label": "thing", "bbox_2d": list(box)} for place, box in boxes],
        "reasoning": answer.reasoning,
        "score": list(answer.scores),
    }
    return json.dumps({key: parts[key] for key in KEYS[answer.task]})


def well_formed(task: Task, count: int) -> str:
    """A reasoning that says nothing and passes every check of `format` with `count` regions."""
    if task == "pq":
        return "The picture looks as it looks."
    return " ".join(
        [*(f"<|bbox_{place}|> something was changed here." for place in range(count)), f"{GLOBAL_TAG} all in all."]
    )


def truth(task: Task, reference: Mapping[str, Any]) -> Answer:
    """The reference's own verdict; where its reasoning or regions are unknown, a well-formed one and none."""
    boxes = tuple(true_boxes(reference)) if task == "sc" and reference["edit_region"] is not None else ()
    reasoning = reference.get("reasoning") or well_formed(task, len(boxes))
    first, second = map(float, reference["score"])
    return Answer(task, boxes if task == "sc" else None, reasoning, (first, second))


def jittered(box: Box, share: float, rng: np.random.Generator) -> Box:
    """`box` with each side's place moved uniformly by up to `share` of that side's length, within the picture."""
    x1, y1, x2, y2 = box
    sides = np.array([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
    left, top, right, bottom = np.clip(np.array(box) + rng.uniform(-share, share, 4) * sides, 0, 1000)
    return float(left), float(top), float(right), float(bottom)


def honest(answer: Answer, share: float, rng: np.random.Generator) -> Answer:
    """A true verdict seen dimly: boxes jittered by `share` of their sides, each score by up to `share` of the range."""
    low, high = SCORE_RANGE
    boxes = None if answer.boxes is None else tuple(jittered(box, share, rng) for box in answer.boxes)
    first, second = np.clip(np.array(answer.scores) + rng.uniform(-share, share, 2) * (high - low), low, high)
    return replace(answer, boxes=boxes, scores=(float(first), float(second)))


def tripled(answer: Answer, rng: np.random.Generator) -> Answer:
    """Every box three times, the second and third jittered by a tenth, and every one cited."""
    if not answer.boxes:
        return answer
    boxes = [copy for box in answer.boxes for copy in (box, jittered(box, 0.1, rng), jittered(box, 0.1, rng))]
    return replace(answer, boxes=tuple(boxes), reasoning=well_formed("sc", len(boxes)))


def bare_tags(answer: Answer) -> str:
    """The reasoning's tags with nothing between them; one without tags as it is."""
    return "".join(tag.group(0) for tag in TAG.finditer(answer.reasoning)) or answer.reasoning


# Each spoils one thing of an honest answer and writes it out.
PADDING: dict[str, Callable[[Answer, np.random.Generator], str]] = {
    "each box three times": lambda answer, rng: completion(tripled(answer, rng)),
    "empty reasoning": lambda answer, rng: completion(replace(answer, reasoning="")),
    "cites with nothing between": lambda answer, rng: completion(replace(answer, reasoning=bare_tags(answer))),
    "prose around the JSON": lambda answer, rng: f"Here is my verdict:\n{completion(answer)}\nI hope that it helps.",
}


def grid() -> tuple[Box, ...]:
    """GRID x GRID boxes that tile the picture."""
    edges = np.linspace(0, 1000, GRID + 1)
    cells = itertools.product(itertools.pairwise(edges.tolist()), repeat=2)
    return tuple((x1, y1, x2, y2) for (y1, y2), (x1, x2) in cells)


def blind(task: Task, answers: Sequence[Answer]) -> dict[str, Answer]:
    """What can be said to every row of `task` alike: each guess of boxes with each guess of scores, by name.

    Knows only the statistics of `answers`, the true ones.
    """
    low, high = SCORE_RANGE
    columns = list(zip(*(answer.scores for answer in answers), strict=True))
    scores = {
        "mean scores": tuple(map(fmean, columns)),
        "median scores": tuple(map(median, columns)),
        "lowest scores": (low, low),
        "highest scores": (high, high),
    }
    boxes = [box for answer in answers for box in answer.boxes or ()]
    x1, y1, x2, y2 = map(fmean, zip(*boxes, strict=True)) if boxes else WHOLE
    regions = {"no box": (), "whole image": (WHOLE,), f"{GRID} x {GRID} grid": grid(), "mean box": ((x1, y1, x2, y2),)}
    return {
        f"{box_name}, {score_name}": Answer(
            task, guess if task == "sc" else None, well_formed(task, len(guess)), points
        )
        for box_name, guess in regions.items()
        for score_name, points in scores.items()
    }
