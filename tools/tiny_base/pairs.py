"""Pairs of images to ask about: an edit done well or badly, or the same items in other positions."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from data.synthetic.edits import Candidate, Change
from data.synthetic.generate import random_group
from data.synthetic.scene import COLORS, Item, Scene, free_box, plain_background, random_scene

# Shares of the pairs: any edit; one with a change that was not requested; one with an item that is elsewhere or of another size
# in the second image; all items elsewhere, nothing requested. Of edits alone most items stay where they were, and a model
# that never tells the images apart is right too often to learn to.
SHOWN = {"any": 0.3, "unrequested": 0.15, "moved": 0.2, "rearranged": 0.35}
# Share of the scenes whose items share colors: a color alone must not tell which item is meant.
FEW_COLORS = 0.5


class Pair(NamedTuple):
    """Two images' scenes, what was requested of the first (of a rearranged pair nothing), and what became of it."""

    source: Scene
    request: tuple[Change, ...]
    candidate: Candidate


def _moved(change: Change) -> bool:
    return change.before is not None and change.after is not None and change.before.box != change.after.box


def _rearranged(rng: np.random.Generator, scene: Scene) -> Scene:
    """The items of `scene` in other positions; an item that finds none is left out."""
    placed = replace(scene, items=())
    for index in rng.permutation(len(scene.items)):
        item = scene.items[index]
        box = free_box(rng, placed, item.box[2] - item.box[0])
        if box is not None:
            placed = replace(placed, items=(*placed.items, replace(item, box=box)))
    return placed


def rearranged_scenes(rng: np.random.Generator, side: int) -> tuple[Scene, Scene]:
    """A random scene of `side` pixels with one item or more, and the same items in other positions."""
    while True:
        scene = random_scene(rng, plain_background(rng, side))
        elsewhere = _rearranged(rng, scene)
        if elsewhere.items:
            return scene, elsewhere


def _few_colors(pair: Pair, rng: np.random.Generator) -> Pair:
    """The pair in two or three colors; as it was where items would share a name or a change would be none."""
    palette = rng.choice(list(COLORS), size=int(rng.integers(2, 4)), replace=False)
    painted = {color: str(rng.choice(palette)) for color in COLORS}

    def item(one: Item) -> Item:
        return replace(one, color=painted[one.color])

    def scene(one: Scene) -> Scene:
        return replace(one, items=tuple(map(item, one.items)))

    def change(one: Change) -> Change:
        return replace(one, before=one.before and item(one.before), after=one.after and item(one.after))

    source, request, edited = scene(pair.source), tuple(map(change, pair.request)), scene(pair.candidate.scene)
    candidate = replace(pair.candidate, scene=edited, changes=tuple(map(change, pair.candidate.changes)))
    clear = all(len({one.name for one in shown.items}) == len(shown.items) for shown in (source, edited))
    same = any(one.before == one.after for one in (*request, *candidate.changes))
    return Pair(source, request, candidate) if clear and not same else pair


def random_pair(rng: np.random.Generator, side: int) -> Pair:
    """A pair of one of SHOWN's kinds, images of `side` pixels; groups without one are drawn again."""
    kind = str(rng.choice(list(SHOWN), p=list(SHOWN.values())))
    while True:
        source, request, candidates = random_group(rng, side, None)
        if kind == "unrequested":
            candidates = [candidate for candidate in candidates if candidate.num_unrequested]
        elif kind == "moved":
            candidates = [candidate for candidate in candidates if any(map(_moved, candidate.changes))]
        if candidates:
            break
    pair = Pair(source, request, candidates[int(rng.integers(len(candidates)))])
    if kind == "rearranged":
        pair = Pair(source, (), Candidate(kind, _rearranged(rng, source), (), 0))
    return _few_colors(pair, rng) if rng.random() < FEW_COLORS else pair
