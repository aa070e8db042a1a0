"""What the audit plays against a dataset: the ground truth with noise, guesses that see no image, verdicts padded on purpose.

A policy writes one completion per row. All work on drafts: (regions, reasoning, scores) before they are written as JSON.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np

from spatial_edit_reward.boxes import BOX_SCALE, Box, true_boxes
from spatial_edit_reward.schema import GLOBAL_TAG, KEYS, TAG, TASKS, ScoreRange, Task

GRID = 3
FULL_IMAGE: Box = (0.0, 0.0, float(BOX_SCALE), float(BOX_SCALE))
# Of boxes, as a share of their sides, and of scores, as a share of their range.
NOISE = (0.0, 0.1, 0.2, 0.4)


@dataclass(frozen=True)
class Draft:
    """A verdict before it is written. `boxes`: 0..1000, None for `pq`; `scores`: the two, in points."""

    task: Task
    boxes: tuple[Box, ...] | None
    reasoning: str
    scores: tuple[float, float]


def completion(draft: Draft) -> str:
    """The draft written as the JSON that its task asks for."""
    parts = {
        "edit_region": [{"id": i, "label": "thing", "bbox_2d": list(box)} for i, box in enumerate(draft.boxes or ())],
        "reasoning": draft.reasoning,
        "score": list(draft.scores),
    }
    return json.dumps({key: parts[key] for key in KEYS[draft.task]})


def empty_phrases(task: Task, regions: int) -> str:
    """A reasoning that means nothing and passes every check of `format` with this number of regions."""
    if task == "pq":
        return "The picture looks as it looks."
    return " ".join(
        [*(f"<|bbox_{i}|> something was changed here." for i in range(regions)), f"{GLOBAL_TAG} all in all."]
    )


def ground_truth(task: Task, reference: Mapping[str, Any]) -> Draft:
    """The reference's own verdict; where its reasoning or regions are unknown, empty phrases and none."""
    boxes = tuple(true_boxes(reference)) if task == "sc" and reference["edit_region"] is not None else ()
    reasoning = reference.get("reasoning") or empty_phrases(task, len(boxes))
    first, second = map(float, reference["score"])
    return Draft(task, boxes if task == "sc" else None, reasoning, (first, second))


def jittered(box: Box, noise: float, rng: np.random.Generator) -> Box:
    """`box` with each corner moved uniformly by up to `noise` of the box's side along each axis, within the image."""
    x1, y1, x2, y2 = box
    sides = np.array([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
    left, top, right, bottom = np.clip(np.array(box) + rng.uniform(-noise, noise, 4) * sides, 0, BOX_SCALE)
    return float(left), float(top), float(right), float(bottom)


def noisy_oracle(draft: Draft, noise: float, score_range: ScoreRange, rng: np.random.Generator) -> Draft:
    """The ground truth with boxes jittered by `noise` of their sides and scores by up to `noise` of the range."""
    low, high = score_range
    boxes = None if draft.boxes is None else tuple(jittered(box, noise, rng) for box in draft.boxes)
    first, second = np.clip(np.array(draft.scores) + rng.uniform(-noise, noise, 2) * (high - low), low, high)
    return replace(draft, boxes=boxes, scores=(float(first), float(second)))


def with_boxes_repeated(draft: Draft, rng: np.random.Generator) -> Draft:
    """Every box three times, the second and third jittered by a tenth, and every one cited."""
    if not draft.boxes:
        return draft
    boxes = [copy for box in draft.boxes for copy in (box, jittered(box, 0.1, rng), jittered(box, 0.1, rng))]
    return replace(draft, boxes=tuple(boxes), reasoning=empty_phrases("sc", len(boxes)))


def bare_tags(draft: Draft) -> str:
    """The reasoning's tags with nothing between them; one without tags as it is."""
    return "".join(tag.group(0) for tag in TAG.finditer(draft.reasoning)) or draft.reasoning


# Each makes one thing of a draft worse and writes it.
PADDING: dict[str, Callable[[Draft, np.random.Generator], str]] = {
    "each box three times": lambda draft, rng: completion(with_boxes_repeated(draft, rng)),
    "empty reasoning": lambda draft, rng: completion(replace(draft, reasoning="")),
    "cites with nothing between": lambda draft, rng: completion(replace(draft, reasoning=bare_tags(draft))),
    "prose around the JSON": lambda draft, rng: f"Here is my verdict:\n{completion(draft)}\nI hope that it helps.",
}


def grid() -> tuple[Box, ...]:
    """GRID x GRID boxes that tile the image."""
    edges = np.linspace(0, BOX_SCALE, GRID + 1)
    cells = itertools.product(itertools.pairwise(edges.tolist()), repeat=2)
    return tuple((x1, y1, x2, y2) for (y1, y2), (x1, x2) in cells)


def blind_guesses(task: Task, drafts: Sequence[Draft], score_range: ScoreRange) -> dict[str, Draft]:
    """What can be answered to every row of `task` alike: each guess of boxes with each guess of scores, by name.

    Knows only the statistics of `drafts`, the true ones.
    """
    low, high = score_range
    columns = list(zip(*(draft.scores for draft in drafts), strict=True))
    scores = {
        "mean scores": tuple(map(fmean, columns)),
        "median scores": tuple(map(median, columns)),
        "lowest scores": (low, low),
        "highest scores": (high, high),
    }
    boxes = [box for draft in drafts for box in draft.boxes or ()]
    x1, y1, x2, y2 = map(fmean, zip(*boxes, strict=True)) if boxes else FULL_IMAGE
    regions = {
        "no box": (),
        "whole image": (FULL_IMAGE,),
        f"{GRID} x {GRID} grid": grid(),
        "mean box": ((x1, y1, x2, y2),),
    }
    return {
        f"{box_name}, {score_name}": Draft(
            task, guess if task == "sc" else None, empty_phrases(task, len(guess)), points
        )
        for box_name, guess in regions.items()
        for score_name, points in scores.items()
    }


def exchanged(drafts: Sequence[Draft]) -> list[Draft]:
    """Every draft replaced by that of the row half a dataset on among those of its task."""
    by_task = {task: [draft for draft in drafts if draft.task == task] for task in TASKS}
    rotated = {task: iter(same[len(same) // 2 :] + same[: len(same) // 2]) for task, same in by_task.items()}
    return [next(rotated[draft.task]) for draft in drafts]


class Policy(NamedTuple):
    """`noise`: of the ground truth that it starts from, or 0; `completions`: one per row."""

    kind: str
    name: str
    noise: float
    completions: list[str]


def policies(rows: Sequence[Mapping[str, Any]], score_range: ScoreRange, seed: int) -> Iterator[Policy]:
    """Every policy on `rows`: the noisy oracle at each NOISE, then blind, then padding ones."""
    drafts = [ground_truth(row["task"], row["reference"]) for row in rows]
    noisy: dict[float, list[Draft]] = {}
    for noise in NOISE:
        rng = np.random.default_rng([seed, round(noise * 1000)])
        noisy[noise] = [noisy_oracle(draft, noise, score_range, rng) for draft in drafts]
        yield Policy("noisy oracle", f"{noise:.0%} noise", noise, [*map(completion, noisy[noise])])
    guesses = {
        task: blind_guesses(task, [draft for draft in drafts if draft.task == task], score_range)
        for task in {draft.task for draft in drafts}
    }
    for name in next(iter(guesses.values())):
        yield Policy("blind", name, 0.0, [completion(guesses[draft.task][name]) for draft in drafts])
    yield Policy("blind", "another row's verdict", 0.0, [*map(completion, exchanged(drafts))])
    for noise in NOISE:
        for name, worsen in PADDING.items():
            rng = np.random.default_rng([seed, 1, round(noise * 1000)])
            yield Policy("padding", f"{name}, {noise:.0%} noise", noise, [worsen(draft, rng) for draft in noisy[noise]])
