"""Edits of a scene: what an instruction requests, what a candidate did of it, and the scores that follow by rule.

Scores of `sc`, each on the default range of 0..25, from what was done and nothing else:
    success       25 x the share of the requested changes that were done
    over-editing  25 - 8 for every unrequested change of an item - 16 if the background changed, never below 0
A failed edit leaves the image as it was: success 0, over-editing 25, no region.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from data.synthetic.scene import COLORS, Item, PixelBox, Scene, free_box, new_name, random_side
from spatial_edit_reward.schema import DEFAULT_SCORE_RANGE

OPERATIONS = ("add", "remove", "recolor", "move", "resize", "replace")
CANDIDATES = ("done", "failed", "partial", "wrong_target", "collateral", "background")
POINTS_PER_CHANGE = 8
POINTS_FOR_BACKGROUND = 16
TRIES = 20


@dataclass(frozen=True)
class Change:
    """One item changed from `before` to `after`; None stands for absent. `requested`: the instruction says so."""

    kind: str
    before: Item | None
    after: Item | None
    requested: bool = True


@dataclass(frozen=True)
class Candidate:
    """What one editor made of an instruction for `num_requested` changes: the edited scene and the truth about it."""

    kind: str
    scene: Scene
    changes: tuple[Change, ...]
    num_requested: int
    background_changed: bool = False

    @property
    def num_done(self) -> int:
        return sum(change.requested for change in self.changes)

    @property
    def num_unrequested(self) -> int:
        return len(self.changes) - self.num_done

    def scores(self) -> list[float]:
        """[success, over-editing] by the rule at the head of this file."""
        low, high = DEFAULT_SCORE_RANGE
        success = float(round(high * self.num_done / self.num_requested))
        loss = POINTS_PER_CHANGE * self.num_unrequested + POINTS_FOR_BACKGROUND * self.background_changed
        return [success, max(low, high - loss)]


def apply(scene: Scene, change: Change) -> Scene:
    """`scene` with `change.before` gone and `change.after` there."""
    items = tuple(item for item in scene.items if item != change.before)
    return replace(scene, items=items if change.after is None else (*items, change.after))


def regions(change: Change) -> list[tuple[str, PixelBox]]:
    """The (label, pixel box) of each region that a change touched: both ends of a move, else one box around it all."""
    items = [item for item in (change.before, change.after) if item is not None]
    if change.kind == "move":
        return [(item.name, item.box) for item in items]
    x1, y1, x2, y2 = zip(*(item.box for item in items), strict=True)
    return [(items[-1].name, (min(x1), min(y1), max(x2), max(y2)))]


def resized(item: Item, factor: float, scene: Scene) -> Item | None:
    """`item` scaled about its center by `factor`; None where it would leave the scene or touch another item."""
    x1, y1, x2, _ = item.box
    side = max(4, round((x2 - x1) * factor))
    x, y = x1 + (x2 - x1 - side) // 2, y1 + (x2 - x1 - side) // 2
    box = (x, y, x + side, y + side)
    inside = x >= 0 and y >= 0 and box[2] <= scene.size[0] and box[3] <= scene.size[1]
    clear = all(
        box[2] < other.box[0] or other.box[2] < x or box[3] < other.box[1] or other.box[3] < y
        for other in scene.items
        if other != item
    )
    return replace(item, box=box) if inside and clear and side != x2 - x1 else None


def random_change(rng: np.random.Generator, kind: str, target: Item | None, scene: Scene) -> Change | None:
    """A change of `kind` to `target` (None for "add") that fits into `scene`; None where there is no room for it."""
    names = {item.name for item in scene.items}
    after: Item | None
    if kind == "add" or target is None:
        color, shape = new_name(rng, names)
        box = free_box(rng, scene, random_side(rng, scene))
        return None if box is None else Change("add", None, Item(color, shape, box))
    if kind == "remove":
        return Change(kind, target, None)
    if kind == "recolor":
        colors = [color for color in COLORS if f"{color} {target.shape}" not in names]
        after = replace(target, color=colors[int(rng.integers(len(colors)))]) if colors else None
    elif kind == "move":
        box = free_box(rng, scene, target.box[2] - target.box[0])
        after = replace(target, box=box) if box else None
    elif kind == "resize":
        after = resized(target, 1.5 if rng.random() < 0.5 else 0.6, scene)
    else:
        after = Item(*new_name(rng, names), target.box)
    return None if after is None else Change(kind, target, after)


def random_request(rng: np.random.Generator, scene: Scene, count: int) -> tuple[Change, ...] | None:
    """`count` changes for an instruction, of different items, none in the way of another; None if 20 tries fail."""
    changes: list[Change] = []
    # Items before and after every change are all obstacles, so that any subset of the changes can be applied.
    crowded = scene
    for _ in range(TRIES):
        kind = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
        targets = [item for item in scene.items if item not in [change.before for change in changes]]
        target = targets[int(rng.integers(len(targets)))] if targets else None
        change = random_change(rng, kind, target, crowded)
        if change is not None:
            changes.append(change)
            if change.after is not None:
                crowded = replace(crowded, items=(*crowded.items, change.after))
        if len(changes) == count:
            return tuple(changes)
    return None


def tinted(rng: np.random.Generator, background: Image.Image) -> Image.Image:
    """`background` blended half and half with a random mid-bright color: a visible change of the whole scene."""
    color = tuple(int(value) for value in rng.integers(60, 200, size=3))
    return Image.blend(background, Image.new("RGB", background.size, color), 0.5)


def unrequested_change(
    rng: np.random.Generator, scene: Scene, request: tuple[Change, ...], kinds: tuple[str, ...]
) -> Change | None:
    """A change of one of `kinds` to an item that the request leaves alone, or an added item where there is none.

    None if 20 tries find no room for it.
    """
    requested = [change.after for change in request if change.after is not None]
    crowded = replace(scene, items=(*scene.items, *(item for item in requested if item not in scene.items)))
    spared = [item for item in scene.items if item not in [c.before for c in request] and item not in requested]
    for _ in range(TRIES):
        kind = kinds[int(rng.integers(len(kinds)))] if spared else "add"
        target = spared[int(rng.integers(len(spared)))] if spared and kind != "add" else None
        change = random_change(rng, kind, target, crowded)
        if change is not None:
            return replace(change, requested=False)
    return None


def make_candidate(rng: np.random.Generator, kind: str, scene: Scene, request: tuple[Change, ...]) -> Candidate | None:
    """The candidate of `kind` (one of CANDIDATES; "partial" needs two requested changes); None where the scene is too full."""
    changes: tuple[Change | None, ...] = request
    if kind == "failed":
        changes = ()
    elif kind == "partial":
        changes = (request[int(rng.integers(len(request)))],)
    elif kind == "wrong_target":
        # The first operation happens to something the instruction never named; the others are done.
        changes = (unrequested_change(rng, scene, request, (request[0].kind,)), *request[1:])
    elif kind == "collateral":
        changes = (*request, unrequested_change(rng, scene, request, ("add", "remove", "recolor")))
    made = tuple(change for change in changes if change is not None)
    if len(made) < len(changes):
        return None
    edited = scene
    for change in made:
        edited = apply(edited, change)
    if kind == "background":
        edited = replace(edited, background=tinted(rng, scene.background))
    return Candidate(kind, edited, made, len(request), background_changed=kind == "background")
