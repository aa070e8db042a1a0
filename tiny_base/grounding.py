"""Third part of the pretraining: plain questions about where a thing is, in one picture or in either of two.

No JSON, no score, no cite, no question about an edit: those are what stage 1 has to teach.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.synthetic.degrade import randomly_degraded
from data.synthetic.generate import normalised, random_group
from data.synthetic.scene import PixelBox, Scene, Thing, draw_scene
from data.synthetic.words import with_article
from verdict.spec import PQ_PROMPT, SC_PROMPT

TURNS = 5
# Difficulty of a conversation.
ONE_THING, ONE_PICTURE, TWO_PICTURES = 0, 1, 2
# Share of questions that ask for a list, by level: only a list makes the model name what it sees.
LISTED = (0.7, 0.3, 0.2)
# Questions about a named thing, each with its answer: several, so that finding it does not hang on one sentence. A name in
# quotation marks starts with another token than a name after a space; between words that mean nothing only the name itself
# tells where it is.
WHERE = {
    "where is the {name}?": "The {name} reaches {reach}.",
    "find the {name}.": 'Found "{name}" at {corners}.',
    "{before} {name} {after}: name it.": 'This is named "{name}", {corners}.',
    "{before} {name} {after}: what is it?": 'It is "{name}", which is at {corners}.',
    "{before} {name} {after}: say {said}, then name it.": '{said} "{name}", {corners}.',
    "say {said}, then name the {name}.": '{said} "{name}", {corners}.',
}
# Words before the first question of half the conversations: they mean nothing, and a model must read past them.
MOST_FILLER = 150
LEFT_OUT = re.compile(r"json|score|region|edit|box|tag|cite|reason|label|key|id\b", re.IGNORECASE)


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


def _listed(things: Sequence[Thing], scene: Scene, rng: np.random.Generator) -> str:
    """The things with their places, in random order, so that a place in the list does not tell which thing it is."""
    order = [things[place] for place in rng.permutation(len(things))]
    found = "; ".join(f"{with_article(thing.name)} {_reach(thing, scene)}" for thing in order)
    return f"There is {found or 'nothing'}."


def _turn(rng: np.random.Generator, scenes: list[Scene], listed: float) -> Turn:
    """One question about a random picture: which things there are (`listed` of the questions), or where a named one is."""
    index = int(rng.integers(len(scenes)))
    scene = scenes[index]
    things = {thing.name: thing.box for thing in scene.things}
    # The picture comes before the name: whoever reads the name knows where to look.
    place = "" if len(scenes) == 1 else f"in the {('first', 'second')[index]} picture, "
    names = sorted({thing.name for scene in scenes for thing in scene.things})
    if not names or rng.random() < listed:
        return Turn(f"{place}which things are there?".capitalize(), _listed(scene.things, scene, rng), None, things)
    name = names[int(rng.integers(len(names)))]
    question, answer = list(WHERE.items())[int(rng.integers(len(WHERE)))]
    before, after, said = (filler(rng, 8) for _ in range(3))
    question = f"{place}{question.format(name=name, before=before, after=after, said=said)}".capitalize()
    thing = next((thing for thing in scene.things if thing.name == name), None)
    if thing is None:
        return Turn(question, f"There is no {name}.", None, things)
    box = normalised(thing.box, scene.size)
    answer = answer.format(name=name, reach=_reach(thing, scene), corners=", ".join(map(str, box)), said=said)
    return Turn(question, answer, box, things)


@cache
def filler_words() -> list[str]:
    """The plain words of the verdict prompts: a prompt is long, and most of it says nothing about where a thing is."""
    found = re.findall(r"[A-Za-z]+", f"{SC_PROMPT} {PQ_PROMPT}")
    return sorted({word.lower() for word in found if not LEFT_OUT.search(word)})


def filler(rng: np.random.Generator, most: int) -> str:
    """One to `most` filler words in random order."""
    return " ".join(rng.choice(filler_words(), size=int(rng.integers(1, most + 1))))


def conversation(seed: int, number: int, side: int, level: int = TWO_PICTURES) -> Conversation:
    """Conversation `number` of a seed: always the same.

    `level`: ONE_THING in one picture; ONE_PICTURE of several things; TWO_PICTURES in 80 %, one in the rest, and the last
    picture damaged in half of them.
    """
    rng = np.random.default_rng([seed, number, 1])
    source, _, candidates = random_group(rng, side, None)
    second = candidates[int(rng.integers(len(candidates)))].scene
    scenes = [second]
    if level == ONE_THING:
        scenes = [replace(source, things=source.things[:1])]
    elif level == TWO_PICTURES and rng.random() < 0.8:
        scenes = [source, second]
    pictures = [draw_scene(scene) for scene in scenes]
    if level == TWO_PICTURES and rng.random() < 0.5:
        pictures[-1] = randomly_degraded(pictures[-1], rng)
    turns = [_turn(rng, scenes, LISTED[level]) for _ in range(1 if level == ONE_THING else TURNS)]
    if rng.random() < 0.7:
        turns[0] = turns[0]._replace(question=f"{filler(rng, MOST_FILLER)}. {turns[0].question}")
    return Conversation(pictures, turns)
