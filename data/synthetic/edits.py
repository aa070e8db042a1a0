"""Edits of a scene: what an instruction asks for, what a candidate did of it, and the scores that follow by rule.

Scores of `sc`, each 0..25, from what was done and nothing else:
    success       25 x the share of the requested operations that were done
    over-editing  25 - 8 for every unrequested change of a thing - 16 if the background changed, never below 0
A failed edit leaves the picture as it was: success 0, over-editing 25, no region.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from data.synthetic.scene import COLORS, PixelBox, Scene, Thing, free_box, new_name, random_side

OPERATIONS = ("add", "remove", "recolor", "move", "resize", "replace")
CANDIDATES = ("done", "failed", "partial", "wrong_target", "collateral", "background")
POINTS_PER_CHANGE = 8
POINTS_FOR_BACKGROUND = 16
TRIES = 20


@dataclass(frozen=True)
class Change:
    """One thing changed from `before` to `after`; None stands for absent. `asked`: the instruction wanted it."""

    kind: str
    before: Thing | None
    after: Thing | None
    asked: bool = True


@dataclass(frozen=True)
class Candidate:
    """What one editor made of an instruction: the edited scene and the truth about it."""

    kind: str
    scene: Scene
    changes: tuple[Change, ...]
    requested: int
    background_changed: bool = False

    @property
    def done(self) -> int:
        return sum(change.asked for change in self.changes)

    @property
    def unasked(self) -> int:
        return len(self.changes) - self.done

    def scores(self) -> list[float]:
        """[success, over-editing], 0..25 each, by the rule at the head of this file."""
        success = round(25 * self.done / self.requested)
        kept = 25 - POINTS_PER_CHANGE * self.unasked - POINTS_FOR_BACKGROUND * self.background_changed
        return [float(success), float(max(0, kept))]


def apply(scene: Scene, change: Change) -> Scene:
    """`scene` with `change.before` gone and `change.after` there."""
    things = tuple(thing for thing in scene.things if thing != change.before)
    return replace(scene, things=things if change.after is None else (*things, change.after))


def regions(change: Change) -> list[tuple[str, PixelBox]]:
    """The (label, pixel box) of each place that a change touched: both places of a move, else one box around it all."""
    places = [thing for thing in (change.before, change.after) if thing is not None]
    if change.kind == "move":
        return [(thing.name, thing.box) for thing in places]
    x1, y1, x2, y2 = zip(*(thing.box for thing in places), strict=True)
    return [(places[-1].name, (min(x1), min(y1), max(x2), max(y2)))]


def resized(thing: Thing, factor: float, scene: Scene) -> Thing | None:
    """`thing` scaled about its centre by `factor`; None where it would leave the scene or touch another thing."""
    x1, y1, x2, _ = thing.box
    side = max(4, round((x2 - x1) * factor))
    x, y = x1 + (x2 - x1 - side) // 2, y1 + (x2 - x1 - side) // 2
    box = (x, y, x + side, y + side)
    inside = x >= 0 and y >= 0 and box[2] <= scene.size[0] and box[3] <= scene.size[1]
    clear = all(
        box[2] < other.box[0] or other.box[2] < x or box[3] < other.box[1] or other.box[3] < y
        for other in scene.things
        if other != thing
    )
    return replace(thing, box=box) if inside and clear and side != x2 - x1 else None


def random_change(rng: np.random.Generator, kind: str, target: Thing | None, scene: Scene) -> Change | None:
    """A change of `kind` to `target` (None for "add") that fits into `scene`; None where no free place was found."""
    names = {thing.name for thing in scene.things}
    if kind == "add" or target is None:
        color, shape = new_name(rng, names)
        box = free_box(rng, scene, random_side(rng, scene))
        return None if box is None else Change("add", None, Thing(color, shape, box))
    if kind == "remove":
        return Change(kind, target, None)
    if kind == "recolor":
        colors = [c for c in COLORS if f"{c} {target.shape}" not in names]
        return (
            Change(kind, target, replace(target, color=colors[int(rng.integers(len(colors)))])) if colors else None
        )
    if kind == "move":
        place = free_box(rng, scene, target.box[2] - target.box[0])
        return None if place is None else Change(kind, target, replace(target, box=place))
    if kind == "resize":
        after = resized(target, 1.5 if rng.random() < 0.5 else 0.6, scene)
        return None if after is None else Change(kind, target, after)
    color, shape = new_name(rng, names)
    return Change("replace", target, Thing(color, shape, target.box))


def random_request(rng: np.random.Generator, scene: Scene, count: int) -> tuple[Change, ...] | None:
    """`count` changes that an instruction asks for, of different things, none in the way of another; None if 20 tries fail."""
    changes: list[Change] = []
    # Things before and after every change are all obstacles, so that any subset of the changes can be applied.
    crowded = scene
    for _ in range(TRIES):
        kind = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
        targets = [thing for thing in scene.things if thing not in [change.before for change in changes]]
        target = targets[int(rng.integers(len(targets)))] if targets else None
        change = random_change(rng, kind, target, crowded)
        if change is not None:
            changes.append(change)
            if change.after is not None:
                crowded = replace(crowded, things=(*crowded.things, change.after))
        if len(changes) == count:
            return tuple(changes)
    return None


def tinted(rng: np.random.Generator, background: Image.Image) -> Image.Image:
    """`background` blended half and half with a random mid-bright color: a visible change of the whole scene."""
    color = tuple(int(value) for value in rng.integers(60, 200, size=3))
    return Image.blend(background, Image.new("RGB", background.size, color), 0.5)


def unasked_change(
    rng: np.random.Generator, scene: Scene, request: tuple[Change, ...], kinds: tuple[str, ...]
) -> Change | None:
    """A change of one of `kinds` to a thing that the request leaves alone, or an added thing where there is none.

    None if 20 tries find no place for it.
    """
    wanted = [change.after for change in request if change.after is not None]
    crowded = replace(scene, things=(*scene.things, *(thing for thing in wanted if thing not in scene.things)))
    spared = [thing for thing in scene.things if thing not in [c.before for c in request] and thing not in wanted]
    for _ in range(TRIES):
        kind = kinds[int(rng.integers(len(kinds)))] if spared else "add"
        target = spared[int(rng.integers(len(spared)))] if spared and kind != "add" else None
        change = random_change(rng, kind, target, crowded)
        if change is not None:
            return replace(change, asked=False)
    return None


def make_candidate(rng: np.random.Generator, kind: str, scene: Scene, request: tuple[Change, ...]) -> Candidate | None:
    """The candidate of `kind` (one of CANDIDATES; "partial" needs two requested changes); None where the scene is too full."""
    changes: tuple[Change | None, ...]
    if kind == "failed":
        changes = ()
    elif kind == "partial":
        changes = (request[int(rng.integers(len(request)))],)
    elif kind == "wrong_target":
        # The first operation happens to something the instruction never named; the others are done.
        changes = (unasked_change(rng, scene, request, (request[0].kind,)), *request[1:])
    elif kind == "collateral":
        changes = (*request, unasked_change(rng, scene, request, ("add", "remove", "recolor")))
    else:
        changes = request
    edited, applied = scene, []
    for change in changes:
        if change is None:
            return None
        edited = apply(edited, change)
        applied.append(change)
    if kind == "background":
        edited = replace(edited, background=tinted(rng, scene.background))
    return Candidate(kind, edited, tuple(applied), len(request), background_changed=kind == "background")
