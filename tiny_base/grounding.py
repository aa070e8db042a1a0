"""What the tiny base is pretrained on: plain questions about where a thing is, in one picture or in either of two.

No JSON, no score, no cite, no question about an edit: those are what stage 1 has to teach.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from data.synthetic.degrade import LOSS_PER_LEVEL, degrade
from data.synthetic.generate import normalised, random_group
from data.synthetic.scene import Scene, Thing, draw_scene
from data.synthetic.words import with_article

TURNS = 3
# Difficulty of a conversation. Reading a lone thing's place off the pixels comes first: from random weights, finding
# one of several in two pictures was still not learnt after 2,200 steps (grounding IoU 0.08).
ONE_THING, ONE_PICTURE, TWO_PICTURES = 0, 1, 2
# Share of questions that ask for a list, by level: only a list makes the model name what it sees.
LISTED = (0.7, 0.5, 0.3)


@dataclass(frozen=True)
class Conversation:
    """One or two pictures, and (question, answer) turns about them. `boxes[i]`: turn i's 0..1000 box, None if absent."""

    images: list[Image.Image]
    turns: list[tuple[str, str]]
    boxes: list[list[int] | None]


def _reach(thing: Thing, scene: Scene) -> str:
    x1, y1, x2, y2 = normalised(thing.box, scene.size)
    return f"from {x1} {y1} to {x2} {y2}"


def _turn(rng: np.random.Generator, scenes: list[Scene], listed: float) -> tuple[str, str, list[int] | None]:
    """One question about a random picture: which things there are (`listed` of the questions), or where a named one is."""
    index = int(rng.integers(len(scenes)))
    scene = scenes[index]
    place = "in the picture" if len(scenes) == 1 else f"in the {('first', 'second')[index]} picture"
    names = sorted({thing.name for scene in scenes for thing in scene.things})
    if not names or rng.random() < listed:
        in_reading_order = sorted(scene.things, key=lambda thing: (thing.box[1], thing.box[0]))
        found = "; ".join(f"{with_article(thing.name)} {_reach(thing, scene)}" for thing in in_reading_order)
        return f"Which things are {place}?", f"There is {found or 'nothing'}.", None
    name = names[int(rng.integers(len(names)))]
    thing = next((thing for thing in scene.things if thing.name == name), None)
    if thing is None:
        return f"Where is the {name} {place}?", f"There is no {name} {place}.", None
    answer = f"The {name} {place} reaches {_reach(thing, scene)}."
    return f"Where is the {name} {place}?", answer, normalised(thing.box, scene.size)


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
        kind = str(rng.choice(list(LOSS_PER_LEVEL)))
        pictures[-1] = degrade(pictures[-1], kind, int(rng.integers(1, 5)), rng)
    turns = [_turn(rng, scenes, LISTED[level]) for _ in range(1 if level == ONE_THING else TURNS)]
    return Conversation(pictures, [(q, a) for q, a, _ in turns], [box for _, _, box in turns])
