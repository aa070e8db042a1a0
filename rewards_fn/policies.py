"""What the audit plays against a dataset: the ground truth with noise, guesses that see no image, verdicts padded on purpose.

Policies work on drafts, which have a reference's keys: "edit_region" ([] for `pq`), "reasoning" and "score".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np

from spatial_edit_reward.boxes import BOX_SCALE, Box, true_boxes
from spatial_edit_reward.schema import GLOBAL_TAG, TAG, TASKS, ScoreRange, Task, render

Draft = dict[str, Any]
GRID = 3
FULL_IMAGE: Box = (0.0, 0.0, float(BOX_SCALE), float(BOX_SCALE))
# Of boxes, as a share of their sides, and of scores, as a share of their range.
NOISE = (0.0, 0.1, 0.2, 0.4)


def regions_of(boxes: Sequence[Box]) -> list[dict[str, Any]]:
    return [{"id": i, "label": "thing", "bbox_2d": list(box)} for i, box in enumerate(boxes)]


def empty_phrases(task: Task, regions: int) -> str:
    """A reasoning that means nothing and passes every check of `format` with this number of regions."""
    if task == "pq":
        return "The picture looks as it looks."
    return " ".join(
        [*(f"<|bbox_{i}|> something was changed here." for i in range(regions)), f"{GLOBAL_TAG} all in all."]
    )


def ground_truth(task: Task, reference: Mapping[str, Any]) -> Draft:
    """The reference's own verdict; where its reasoning or regions are unknown, empty phrases and none."""
    boxes = true_boxes(reference) if task == "sc" and reference["edit_region"] is not None else []
    reasoning = reference.get("reasoning") or empty_phrases(task, len(boxes))
    return {"edit_region": regions_of(boxes), "reasoning": reasoning, "score": reference["score"]}


def jittered(box: Box, noise: float, rng: np.random.Generator) -> Box:
    """`box` with each corner moved uniformly by up to `noise` of the box's side along each axis, within the image."""
    x1, y1, x2, y2 = box
    sides = np.array([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
    left, top, right, bottom = np.clip(np.array(box) + rng.uniform(-noise, noise, 4) * sides, 0, BOX_SCALE).tolist()
    return left, top, right, bottom


def noisy_oracle(draft: Draft, noise: float, score_range: ScoreRange, rng: np.random.Generator) -> Draft:
    """The ground truth with boxes jittered by `noise` of their sides and scores by up to `noise` of the range."""
    low, high = score_range
    boxes = [jittered(box, noise, rng) for box in true_boxes(draft)]
    scores = np.clip(np.array(draft["score"]) + rng.uniform(-noise, noise, 2) * (high - low), low, high)
    return {**draft, "edit_region": regions_of(boxes), "score": scores.tolist()}


def repeat_boxes(draft: Draft, rng: np.random.Generator) -> Draft:
    """Every box three times, the second and third jittered by a tenth, and every one cited."""
    if not draft["edit_region"]:
        return draft
    boxes = [copy for box in true_boxes(draft) for copy in (box, jittered(box, 0.1, rng), jittered(box, 0.1, rng))]
    return {**draft, "edit_region": regions_of(boxes), "reasoning": empty_phrases("sc", len(boxes))}


def bare_tags(reasoning: str) -> str:
    """The tags of `reasoning` with nothing between them; one without tags as it is."""
    return "".join(tag.group(0) for tag in TAG.finditer(reasoning)) or reasoning


# Each makes one thing of a draft worse and writes it.
PADDING: dict[str, Callable[[Task, Draft, np.random.Generator], str]] = {
    "each box three times": lambda task, draft, rng: render(task, repeat_boxes(draft, rng)),
    "empty reasoning": lambda task, draft, rng: render(task, {**draft, "reasoning": ""}),
    "cites with nothing between": lambda task, draft, rng: render(
        task, {**draft, "reasoning": bare_tags(draft["reasoning"])}
    ),
    "prose around the JSON": lambda task, draft, rng: (
        f"Here is my verdict:\n{render(task, draft)}\nI hope that it helps."
    ),
}


def grid() -> list[Box]:
    """GRID x GRID boxes that tile the image."""
    edges = np.linspace(0, BOX_SCALE, GRID + 1).tolist()
    cells = itertools.product(itertools.pairwise(edges), repeat=2)
    return [(x1, y1, x2, y2) for (y1, y2), (x1, x2) in cells]


def blind_guesses(task: Task, drafts: Sequence[Draft], score_range: ScoreRange) -> dict[str, str]:
    """What can be answered to every row of `task` alike: each guess of boxes with each guess of scores, by name.

    Knows only the statistics of `drafts`, the true ones.
    """
    low, high = score_range
    columns = list(zip(*(draft["score"] for draft in drafts), strict=True))
    scores = {
        "mean scores": [fmean(column) for column in columns],
        "median scores": [median(column) for column in columns],
        "lowest scores": [low, low],
        "highest scores": [high, high],
    }
    boxes = [box for draft in drafts for box in true_boxes(draft)]
    x1, y1, x2, y2 = map(fmean, zip(*boxes, strict=True)) if boxes else FULL_IMAGE
    guesses: dict[str, list[Box]] = {
        "no box": [],
        "whole image": [FULL_IMAGE],
        f"{GRID} x {GRID} grid": grid(),
        "mean box": [(x1, y1, x2, y2)],
    }
    return {
        f"{boxes_name}, {scores_name}": render(
            task,
            {"edit_region": regions_of(guess), "reasoning": empty_phrases(task, len(guess)), "score": pair},
        )
        for boxes_name, guess in guesses.items()
        for scores_name, pair in scores.items()
    }


def exchanged(tasks: Sequence[Task], drafts: Sequence[Draft]) -> list[Draft]:
    """Every draft replaced by that of the row half a dataset on among those of its task."""
    by_task = {task: [draft for of, draft in zip(tasks, drafts, strict=True) if of == task] for task in TASKS}
    rotated = {task: iter(same[len(same) // 2 :] + same[: len(same) // 2]) for task, same in by_task.items()}
    return [next(rotated[task]) for task in tasks]


class Policy(NamedTuple):
    """`noise`: of the ground truth that it starts from, or 0; `completions`: one per row."""

    kind: str
    name: str
    noise: float
    completions: list[str]


def policies(rows: Sequence[Mapping[str, Any]], score_range: ScoreRange, seed: int) -> Iterator[Policy]:
    """Every policy on `rows`: the noisy oracle at each NOISE, then blind, then padding ones."""
    tasks: list[Task] = [row["task"] for row in rows]
    drafts = [ground_truth(row["task"], row["reference"]) for row in rows]
    noisy: dict[float, list[Draft]] = {}
    for noise in NOISE:
        rng = np.random.default_rng([seed, round(noise * 1000)])
        noisy[noise] = [noisy_oracle(draft, noise, score_range, rng) for draft in drafts]
        yield Policy("noisy oracle", f"{noise:.0%} noise", noise, [*map(render, tasks, noisy[noise])])
    guesses = {
        task: blind_guesses(task, [draft for of, draft in zip(tasks, drafts, strict=True) if of == task], score_range)
        for task in set(tasks)
    }
    for name in guesses[tasks[0]]:
        yield Policy("blind", name, 0.0, [guesses[task][name] for task in tasks])
    yield Policy("blind", "another row's verdict", 0.0, [*map(render, tasks, exchanged(tasks, drafts))])
    for noise in NOISE:
        for name, worsen in PADDING.items():
            rng = np.random.default_rng([seed, 1, round(noise * 1000)])
            texts = [worsen(task, draft, rng) for task, draft in zip(tasks, noisy[noise], strict=True)]
            yield Policy("padding", f"{name}, {noise:.0%} noise", noise, texts)
