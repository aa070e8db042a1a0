"""Third part of the pretraining: plain questions about where an item is, in one image or in either of two.

Some ask for the items that a request means, or for what differs between two images. No JSON, no score, no cite, no
verdict: those are what stage 1 has to teach.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from data.synthetic.degrade import randomly_degraded
from data.synthetic.edits import regions
from data.synthetic.generate import edit_region, normalized
from data.synthetic.scene import Scene, draw_scene
from data.synthetic.words import instruction, with_article
from spatial_edit_reward.spec import PQ_PROMPT, SC_PROMPT
from tools.tiny_base.names import ORDINALS, About, boxes_of
from tools.tiny_base.pairs import Pair, random_pair
from tools.tiny_base.vision import IGNORED, ground

Form = TypeVar("Form")

TURNS = 5
# Difficulty of a conversation.
ONE_ITEM, ONE_IMAGE, TWO_IMAGES = 0, 1, 2
# Share of questions that ask for a list, by level: only a list makes the model name what it sees.
LISTED = (0.7, 0.3, 0.15)
# Share of the other questions that name two items.
TWO_NAMES = 0.35
# Shares of the questions about two images that ask for a named item in each, for what a request means, for what differs.
BOTH_IMAGES = {"each": 0.1, "meant": 0.2, "differs": 0.45}
# Share of the names that join a color and a shape of different items.
MIXED_NAMES = 0.2
# Share of the questions about an item in each image that ask for one whose positions differ, if there is one.
PLACES_DIFFER = 0.6
# Questions about a named item, each with its answer: several, so that finding it does not hang on one sentence. A name in
# quotation marks starts with another token than a name after a space; between words that mean nothing only the name itself
# tells where it is.
ONE_NAME = {
    "where is the {name}?": "The {name} reaches {reach}.",
    "find the {name}.": 'Found "{name}" at {corners}.',
    "{before} {name} {after}: name it.": 'This is named "{name}", {corners}.',
    "{before} {name} {after}: what is it?": 'It is "{name}", which is at {corners}.',
    "{before} {name} {after}: say {words}, then name it.": '{words} "{name}", {corners}.',
    "say {words}, then name the {name}.": '{words} "{name}", {corners}.',
}
# The same with a second name; what the question is comes last, so that the model does not know it when it reads the names.
BOTH_NAMES = {
    "{before} {name} {words} {other} {after}: name both.": '"{name}", {corners}, and "{other}", {other_corners}.',
    "{before} {name} {words} {other} {after}: name the last.": 'The last is "{other}", {other_corners}.',
    "{before} {name} {words} {other} {after}: name the first.": 'The first is "{name}", {corners}.',
}
# A request of an edit, done or not: what it names is to be found, in the second image or in each.
MEANT = {
    "{request} {words}: name what is meant in the second picture.": False,
    "{request} {words}: name what is meant in each picture.": True,
}
# Questions about all that differs, with how the answer begins; the boxes follow, or how it says that there are none. Whether
# anything differs must be known after words that mean nothing too, and far from the question.
DIFFERS = {
    "{before}: name what differs.": ("", "Nothing."),
    "{before}: count what differs, then name it.": ("{count} differ: ", "0 differ."),
    "{before}: say {words}, then name what differs {after}.": ("{words}: ", "{words}: nothing."),
    "{before}: say {words}, then name every place that was changed. {far}.": ('"{words}": ', '"{words}": nothing.'),
    "{before}: every place that was changed, nothing if none was, but say {words} before. {far}.": (
        "{words} ",
        "{words} nothing.",
    ),
}
# Share of these that come with a request, done or not: what differs must be seen, not taken from what was asked for. Half of
# these ask as well whether each place was meant.
REQUESTED, MEANT_OR_NOT = 0.8, 0.5
WHICH_WAS_MEANT = " Say of each whether it was meant."
IN_EACH = ("{before} {name} {after}: name it in each picture.", '"{name}", {corners}, then "{name}", {then}.')
# Most words before the first question of most conversations, and between one of DIFFERS and its answer: they mean nothing,
# and a model must read past them. Left out: a verdict's own words, and those that a question about what differs is asked with.
MOST_FILLER, MOST_BETWEEN = 100, 60
LEFT_OUT = re.compile(
    r"json|score|region|edit|box|tag|cite|reason|label|key|nothing|empty|else|changed|every|id\b", re.IGNORECASE
)


class Turn(NamedTuple):
    """`box`: the answer's only one, 0..1000, else None.

    `images`: those that the names in the answer are about, in turn, and again from the first; a single one is named in the
    question before any name.
    """

    question: str
    answer: str
    box: list[int] | None
    images: tuple[int, ...]


@dataclass(frozen=True)
class Conversation:
    """One or two images, the scenes they show, and turns about them."""

    images: list[Image.Image]
    scenes: list[Scene]
    turns: list[Turn]

    def about(self) -> list[list[About]]:
        """`Turn.images` of each turn, with the boxes of their items; which image is IGNORED where there is one."""
        boxes = [boxes_of(scene) for scene in self.scenes]
        two = len(self.scenes) == 2
        return [[(index if two else IGNORED, boxes[index]) for index in turn.images] for turn in self.turns]


def _one_of(rng: np.random.Generator, forms: Mapping[str, Form]) -> tuple[str, Form]:
    """A random form of a question, with what goes with it."""
    return list(forms.items())[int(rng.integers(len(forms)))]


def _quoted(name: str, box: Sequence[int] | None) -> str:
    return f'"{name}", {_corners(box)}'


def _meant(pair: Pair, boxes: list[dict[str, list[int]]], each: bool) -> str:
    """Where the requested items are: as they were in the first image (if `each`), as they become in the second."""
    parts = []
    for change in pair.request:
        was, becomes = (change.before or change.after), (change.after or change.before)
        assert was is not None and becomes is not None
        second = _quoted(becomes.name, boxes[1].get(becomes.name))
        parts.append(f"{_quoted(was.name, boxes[0].get(was.name))}, then {second}" if each else second)
    return f"{' and '.join(parts)}."


def _differing(
    rng: np.random.Generator, pair: Pair, fillers: Mapping[str, str], boxes: list[dict[str, list[int]]]
) -> Turn:
    """A question of DIFFERS about `pair`, with or without its request; `boxes`: of both images, by name."""
    far = filler(rng, MOST_BETWEEN)
    question, (beginning, none) = _one_of(rng, DIFFERS)
    question = question.format(**fillers, far=far).capitalize()
    edited = iter(edit_region(pair.candidate))
    changed = [[(next(edited), change.requested) for _ in regions(change)] for change in pair.candidate.changes]
    changed += [[(background, False)] for background in edited]
    order, meant_or_not = rng.permutation(len(changed)), False
    if rng.random() < REQUESTED:
        # What was asked for comes first, as it was asked: one order can be learnt much sooner than any.
        order = np.arange(len(changed))
        meant_or_not = bool(rng.random() < MEANT_OR_NOT)
        question += WHICH_WAS_MEANT if meant_or_not else ""
        parts = (instruction(pair.request), question)
        question = " ".join(parts if rng.random() < 0.5 else reversed(parts))
    named_regions = [each for index in order for each in changed[index]]
    named = " and ".join(_quoted(region["label"], region["bbox_2d"]) for region, _ in named_regions)
    again = "".join(f" The {region['label']} was {'' if meant else 'not '}meant." for region, meant in named_regions)
    answer = f"{beginning}{named}.{again if meant_or_not else ''}" if named_regions else none
    # An item is named as it was in the first image where it is gone, moved away or was larger.
    items = [region for region, _ in named_regions if region["label"] != "background"]
    images = tuple(int(boxes[0].get(item["label"]) != item["bbox_2d"]) for item in items)
    # Twice where there is one: the question does not say which image is meant.
    return Turn(question, answer.format(**fillers, count=len(named_regions)), None, images * 2)


def _turn_about_both(rng: np.random.Generator, kind: str, pair: Pair, boxes: list[dict[str, list[int]]]) -> Turn:
    """A question of BOTH_IMAGES' `kind`; `boxes`: those of both images, by name."""
    fillers = {key: filler(rng, 8) for key in ("before", "after", "words")}
    if kind == "differs":
        return _differing(rng, pair, fillers, boxes)
    if kind == "meant":
        question, each = _one_of(rng, MEANT)
        question = question.format(request=instruction(pair.request), **fillers)
        return Turn(question, _meant(pair, boxes, each), None, (0, 1) if each else (1, 1))
    apart = sorted(name for name in boxes[0] if boxes[1].get(name, boxes[0][name]) != boxes[0][name])
    names = apart if apart and rng.random() < PLACES_DIFFER else sorted({name for known in boxes for name in known})
    name = _random_name(rng, names)
    first, then = (_corners(known.get(name)) for known in boxes)
    question, answer = (text.format(name=name, corners=first, then=then, **fillers) for text in IN_EACH)
    return Turn(question.capitalize(), answer, None, (0, 1))


def _reach(box: Sequence[int]) -> str:
    x1, y1, x2, y2 = box
    return f"from {x1} {y1} to {x2} {y2}"


def _corners(box: Sequence[int] | None) -> str:
    return "nowhere" if box is None else ", ".join(map(str, box))


def _listed(scene: Scene, rng: np.random.Generator) -> str:
    """The items with their positions, in random order, so that a place in the list does not tell which item it is."""
    order = [scene.items[i] for i in rng.permutation(len(scene.items))]
    listed = "; ".join(f"{with_article(item.name)} {_reach(normalized(item.box, scene.size))}" for item in order)
    return f"There is {listed or 'nothing'}, on {ground(scene)} ground."


def _random_name(rng: np.random.Generator, names: list[str]) -> str:
    """One of `names`, or the color of one with the shape of another."""
    name, other = (names[int(rng.integers(len(names)))] for _ in range(2))
    return f"{name.split()[0]} {other.split()[1]}" if rng.random() < MIXED_NAMES else name


def _turn(rng: np.random.Generator, scenes: list[Scene], pair: Pair, listed: float) -> Turn:
    """One question about a random image: which items there are (`listed` of the questions), or where named ones are."""
    index = int(rng.integers(len(scenes)))
    boxes = [{item.name: normalized(item.box, scene.size) for item in scene.items} for scene in scenes]
    # The image comes before the name, so that the model knows which one is meant when it reads the name.
    where = "" if len(scenes) == 1 else f"in the {ORDINALS[index]} picture, "
    names = sorted({name for known in boxes for name in known})
    if not names or rng.random() < listed:
        question = f"{where}which things are there?".capitalize()
        return Turn(question, _listed(scenes[index], rng), None, (index,))
    kind = rng.choice([*BOTH_IMAGES, "one"], p=[*BOTH_IMAGES.values(), 1 - sum(BOTH_IMAGES.values())])
    if len(scenes) == 2 and kind != "one":
        # Where nothing was requested, all differs: only a named item can be asked for.
        return _turn_about_both(rng, str(kind) if pair.request else "each", pair, boxes)
    name, other = _random_name(rng, names), _random_name(rng, names)
    fillers = {key: filler(rng, 8) for key in ("before", "after", "words")} | {"name": name, "other": other}
    two = rng.random() < TWO_NAMES
    question, answer = _one_of(rng, BOTH_NAMES if two else ONE_NAME)
    question = f"{where}{question.format(**fillers)}".capitalize()
    box = boxes[index].get(name)
    if box is None and '"' not in answer:
        return Turn(question, f"There is no {name}.", None, (index,))
    corners = {"corners": _corners(box), "other_corners": _corners(boxes[index].get(other))}
    answer = answer.format(reach=_reach(box) if box else "", **corners, **fillers)
    return Turn(question, answer, None if two else box, (index,))


@cache
def filler_words() -> list[str]:
    """The plain words of the verdict prompts: a prompt is long, and most of it says nothing about where an item is."""
    words = re.findall(r"[A-Za-z]+", f"{SC_PROMPT} {PQ_PROMPT}")
    return sorted({word.lower() for word in words if not LEFT_OUT.search(word)})


def filler(rng: np.random.Generator, most: int) -> str:
    """One to `most` filler words in random order."""
    return " ".join(rng.choice(filler_words(), size=int(rng.integers(1, most + 1))))


def conversation(seed: int, number: int, side: int, level: int = TWO_IMAGES) -> Conversation:
    """Conversation `number` of a seed: always the same.

    `level`: ONE_THING in one image; ONE_IMAGE of several items; TWO_IMAGES in 80 %, one in the rest, and the last
    image damaged in half of them.
    """
    rng = np.random.default_rng([seed, number, 1])
    pair = random_pair(rng, side)
    scenes = [pair.candidate.scene]
    if level == ONE_ITEM:
        scenes = [replace(pair.source, items=pair.source.items[:1])]
    elif level == TWO_IMAGES and rng.random() < 0.8:
        scenes = [pair.source, pair.candidate.scene]
    images = [draw_scene(scene) for scene in scenes]
    if level == TWO_IMAGES and rng.random() < 0.5:
        images[-1] = randomly_degraded(images[-1], rng)
    turns = [_turn(rng, scenes, pair, LISTED[level]) for _ in range(1 if level == ONE_ITEM else TURNS)]
    if rng.random() < 0.7:
        turns[0] = turns[0]._replace(question=f"{filler(rng, MOST_FILLER)}. {turns[0].question}")
    return Conversation(images, scenes, turns)
