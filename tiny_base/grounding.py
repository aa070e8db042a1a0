"""Third part of the pretraining: plain questions about where a thing is, in one picture or in either of two.

No JSON, no score, no cite, no question about an edit: those are what stage 1 has to teach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.synthetic.degrade import randomly_degraded
from data.synthetic.generate import normalised, random_group
from data.synthetic.scene import PixelBox, Scene, Thing, draw_scene
from data.synthetic.words import with_article

TURNS = 5
# Difficulty of a conversation.
ONE_THING, ONE_PICTURE, TWO_PICTURES = 0, 1, 2
# Share of questions that ask for a list, by level: only a list makes the model name what it sees.
LISTED = (0.7, 0.3, 0.3)


class Turn(NamedTuple):
    """`box`: the answer's, 0..1000, None where there is none. `things`: pixel boxes by name in the picture asked about."""

    question: str
    answer: str
    box: list[int] | None
    things: Mapping[str, PixelBox]


@dataclass(frozen=True)
class Conversation:
    """One or two pictures, and turns about them."""

    images: list[Image.Image]
    turns: list[Turn]


def _reach(thing: Thing, scene: Scene) -> str:
    x1, y1, x2, y2 = normalised(thing.box, scene.size)
    return f"from {x1} {y1} to {x2} {y2}"


def _turn(rng: np.random.Generator, scenes: list[Scene], listed: float) -> Turn:
    """One question about a random picture: which things there are (`listed` of the questions), or where a named one is."""
    index = int(rng.integers(len(scenes)))
    scene = scenes[index]
    things = {thing.name: thing.box for thing in scene.things}
    # The picture comes before the name: whoever reads the name knows where to look.
    place = "" if len(scenes) == 1 else f"in the {('first', 'second')[index]} picture, "
    names = sorted({thing.name for scene in scenes for thing in scene.things})
    if not names or rng.random() < listed:
        # In random order, so that a thing's place in the list does not tell which one it is.
        order = [scene.things[place] for place in rng.permutation(len(scene.things))]
        found = "; ".join(f"{with_article(thing.name)} {_reach(thing, scene)}" for thing in order)
        return Turn(f"{place}which things are there?".capitalize(), f"There is {found or 'nothing'}.", None, things)
    name = names[int(rng.integers(len(names)))]
    question = f"{place}where is the {name}?".capitalize()
    thing = next((thing for thing in scene.things if thing.name == name), None)
    if thing is None:
        return Turn(question, f"There is no {name}.", None, things)
    return Turn(question, f"The {name} reaches {_reach(thing, scene)}.", normalised(thing.box, scene.size), things)


def conversation(seed: int, number: int, side: int, level: int = TWO_PICTURES) -> Conversation:
    """Conversation `number` of a seed: always the same.

    `level`: ONE_THING in one picture; ONE_PICTURE of several things; TWO_PICTURES in 70 %, one in the rest, and the last
    picture damaged in half of them.
    """
    rng = np.random.default_rng([seed, number, 1])
    source, _, candidates = random_group(rng, side, None)
    second = candidates[int(rng.integers(len(candidates)))].scene
    scenes = [second]
    if level == ONE_THING:
        scenes = [replace(source, things=source.things[:1])]
    elif level == TWO_PICTURES and rng.random() < 0.7:
        scenes = [source, second]
    pictures = [draw_scene(scene) for scene in scenes]
    if level == TWO_PICTURES and rng.random() < 0.5:
        pictures[-1] = randomly_degraded(pictures[-1], rng)
    return Conversation(
        pictures, [_turn(rng, scenes, LISTED[level]) for _ in range(1 if level == ONE_THING else TURNS)]
    )
