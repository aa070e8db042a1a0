"""Third part of the pretraining: plain questions about where a thing is, in one picture or in either of two.

Some ask for the things that a request means, or for what differs between two pictures. No JSON, no score, no cite, no
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
ONE_THING, ONE_PICTURE, TWO_PICTURES = 0, 1, 2
# Share of questions that ask for a list, by level: only a list makes the model name what it sees.
LISTED = (0.7, 0.3, 0.15)
# Share of the other questions that name two things.
TWO_NAMES = 0.35
# Shares of the questions about two pictures that ask for a named thing in each, for what a request means, for what differs.
BOTH_PICTURES = {"each": 0.1, "meant": 0.2, "differs": 0.45}
# Share of the names that join a colour and a shape of different things.
MIXED_NAMES = 0.2
# Share of the questions about a thing in each picture that ask for one whose places differ, if there is one.
PLACES_DIFFER = 0.6
# Questions about a named thing, each with its answer: several, so that finding it does not hang on one sentence. A name in
# quotation marks starts with another token than a name after a space; between words that mean nothing only the name itself
# tells where it is.
ONE_NAME = {
    "where is the {name}?": "The {name} reaches {reach}.",
    "find the {name}.": 'Found "{name}" at {corners}.',
    "{before} {name} {after}: name it.": 'This is named "{name}", {corners}.',
    "{before} {name} {after}: what is it?": 'It is "{name}", which is at {corners}.',
    "{before} {name} {after}: say {said}, then name it.": '{said} "{name}", {corners}.',
    "say {said}, then name the {name}.": '{said} "{name}", {corners}.',
}
# The same with a second name; what is asked for comes last, since whoever reads the names does not know it yet.
BOTH_NAMES = {
    "{before} {name} {said} {other} {after}: name both.": '"{name}", {corners}, and "{other}", {other_corners}.',
    "{before} {name} {said} {other} {after}: name the last.": 'The last is "{other}", {other_corners}.',
    "{before} {name} {said} {other} {after}: name the first.": 'The first is "{name}", {corners}.',
}
# A request of an edit, done or not: what it names is to be found, in the second picture or in each.
MEANT = {
    "{request} {said}: name what is meant in the second picture.": False,
    "{request} {said}: name what is meant in each picture.": True,
}
# Questions about all that differs, with how the answer begins; the places follow, or how it says that there are none. Whether
# anything differs must be known after words that mean nothing too, and far from where it was asked.
DIFFERS = {
    "{before}: name what differs.": ("", "Nothing."),
    "{before}: count what differs, then name it.": ("{count} differ: ", "0 differ."),
    "{before}: say {said}, then name what differs {after}.": ("{said}: ", "{said}: nothing."),
    "{before}: say {said}, then name every place that was changed. {far}.": ('"{said}": ', '"{said}": nothing.'),
    "{before}: every place that was changed, nothing if none was, but say {said} before. {far}.": (
        "{said} ",
        "{said} nothing.",
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

    `pictures`: those that the names in the answer are about, in turn, and again from the first; a single one is told in the
    question before any name.
    """

    question: str
    answer: str
    box: list[int] | None
    pictures: tuple[int, ...]


@dataclass(frozen=True)
class Conversation:
    """One or two pictures, what they show, and turns about them."""

    images: list[Image.Image]
    scenes: list[Scene]
    turns: list[Turn]

    def about(self) -> list[list[About]]:
        """`Turn.pictures` of each turn, with the boxes of their things; which picture is IGNORED where there is one."""
        boxes = [boxes_of(scene) for scene in self.scenes]
        two = len(self.scenes) == 2
        return [[(index if two else IGNORED, boxes[index]) for index in turn.pictures] for turn in self.turns]


def _one_of(rng: np.random.Generator, forms: Mapping[str, Form]) -> tuple[str, Form]:
    """A random form of a question, with what goes with it."""
    return list(forms.items())[int(rng.integers(len(forms)))]


def _quoted(name: str, box: Sequence[int] | None) -> str:
    return f'"{name}", {_corners(box)}'


def _meant(pair: Pair, boxes: list[dict[str, list[int]]], each: bool) -> str:
    """Where the requested things are: as they were in the first picture (if `each`), as they become in the second."""
    found = []
    for change in pair.request:
        was, becomes = (change.before or change.after), (change.after or change.before)
        assert was is not None and becomes is not None
        second = _quoted(becomes.name, boxes[1].get(becomes.name))
        found.append(f"{_quoted(was.name, boxes[0].get(was.name))}, then {second}" if each else second)
    return f"{' and '.join(found)}."


def _differing(
    rng: np.random.Generator, pair: Pair, words: Mapping[str, str], boxes: list[dict[str, list[int]]]
) -> Turn:
    """A question of DIFFERS about `pair`, with or without its request, filled with `words`; `boxes`: of both, by name."""
    far = filler(rng, MOST_BETWEEN)
    question, (beginning, none) = _one_of(rng, DIFFERS)
    question = question.format(**words, far=far).capitalize()
    places = iter(edit_region(pair.candidate))
    changed = [[(next(places), change.requested) for _ in regions(change)] for change in pair.candidate.changes]
    changed += [[(background, False)] for background in places]
    order, meant_or_not = rng.permutation(len(changed)), False
    if rng.random() < REQUESTED:
        # What was asked for comes first, as it was asked: one order can be learnt much sooner than any.
        order = np.arange(len(changed))
        meant_or_not = bool(rng.random() < MEANT_OR_NOT)
        question += WHICH_WAS_MEANT if meant_or_not else ""
        parts = (instruction(pair.request), question)
        question = " ".join(parts if rng.random() < 0.5 else reversed(parts))
    told = [each for index in order for each in changed[index]]
    named = " and ".join(_quoted(place["label"], place["bbox_2d"]) for place, _ in told)
    again = "".join(f" The {place['label']} was {'' if meant else 'not '}meant." for place, meant in told)
    answer = f"{beginning}{named}.{again if meant_or_not else ''}" if told else none
    # A thing is told as it was where it is gone, moved away or was larger.
    items = [place for place, _ in told if place["label"] != "background"]
    pictures = tuple(int(boxes[0].get(item["label"]) != item["bbox_2d"]) for item in items)
    # Twice where there is one: the question does not tell it.
    return Turn(question, answer.format(**words, count=len(told)), None, pictures * 2)


def _turn_about_both(rng: np.random.Generator, kind: str, pair: Pair, boxes: list[dict[str, list[int]]]) -> Turn:
    """A question of BOTH_PICTURES' `kind`; `boxes`: those of both pictures, by name."""
    words = {key: filler(rng, 8) for key in ("before", "after", "said")}
    if kind == "differs":
        return _differing(rng, pair, words, boxes)
    if kind == "meant":
        question, each = _one_of(rng, MEANT)
        asked = question.format(request=instruction(pair.request), **words)
        return Turn(asked, _meant(pair, boxes, each), None, (0, 1) if each else (1, 1))
    apart = sorted(name for name in boxes[0] if boxes[1].get(name, boxes[0][name]) != boxes[0][name])
    names = apart if apart and rng.random() < PLACES_DIFFER else sorted({name for known in boxes for name in known})
    name = _asked_name(rng, names)
    first, then = (_corners(known.get(name)) for known in boxes)
    question, answer = (text.format(name=name, corners=first, then=then, **words) for text in IN_EACH)
    return Turn(question.capitalize(), answer, None, (0, 1))


def _reach(box: Sequence[int]) -> str:
    x1, y1, x2, y2 = box
    return f"from {x1} {y1} to {x2} {y2}"


def _corners(box: Sequence[int] | None) -> str:
    return "nowhere" if box is None else ", ".join(map(str, box))


def _listed(scene: Scene, rng: np.random.Generator) -> str:
    """The things with their places, in random order, so that a place in the list does not tell which thing it is."""
    order = [scene.items[place] for place in rng.permutation(len(scene.items))]
    found = "; ".join(f"{with_article(item.name)} {_reach(normalized(item.box, scene.size))}" for item in order)
    return f"There is {found or 'nothing'}, on {ground(scene)} ground."


def _asked_name(rng: np.random.Generator, names: list[str]) -> str:
    """One of `names`, or the colour of one with the shape of another."""
    name, other = (names[int(rng.integers(len(names)))] for _ in range(2))
    return f"{name.split()[0]} {other.split()[1]}" if rng.random() < MIXED_NAMES else name


def _turn(rng: np.random.Generator, scenes: list[Scene], pair: Pair, listed: float) -> Turn:
    """One question about a random picture: which things there are (`listed` of the questions), or where named ones are."""
    index = int(rng.integers(len(scenes)))
    boxes = [{item.name: normalized(item.box, scene.size) for item in scene.items} for scene in scenes]
    # The picture comes before the name: whoever reads the name knows where to look.
    place = "" if len(scenes) == 1 else f"in the {ORDINALS[index]} picture, "
    names = sorted({name for known in boxes for name in known})
    if not names or rng.random() < listed:
        question = f"{place}which things are there?".capitalize()
        return Turn(question, _listed(scenes[index], rng), None, (index,))
    kind = rng.choice([*BOTH_PICTURES, "one"], p=[*BOTH_PICTURES.values(), 1 - sum(BOTH_PICTURES.values())])
    if len(scenes) == 2 and kind != "one":
        # Where nothing was requested, all differs: only a named thing can be asked for.
        return _turn_about_both(rng, str(kind) if pair.request else "each", pair, boxes)
    name, other = _asked_name(rng, names), _asked_name(rng, names)
    words = {key: filler(rng, 8) for key in ("before", "after", "said")} | {"name": name, "other": other}
    two = rng.random() < TWO_NAMES
    question, answer = _one_of(rng, BOTH_NAMES if two else ONE_NAME)
    question = f"{place}{question.format(**words)}".capitalize()
    box = boxes[index].get(name)
    if box is None and '"' not in answer:
        return Turn(question, f"There is no {name}.", None, (index,))
    corners = {"corners": _corners(box), "other_corners": _corners(boxes[index].get(other))}
    answer = answer.format(reach=_reach(box) if box else "", **corners, **words)
    return Turn(question, answer, None if two else box, (index,))


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
    pair = random_pair(rng, side)
    scenes = [pair.candidate.scene]
    if level == ONE_THING:
        scenes = [replace(pair.source, items=pair.source.items[:1])]
    elif level == TWO_PICTURES and rng.random() < 0.8:
        scenes = [pair.source, pair.candidate.scene]
    pictures = [draw_scene(scene) for scene in scenes]
    if level == TWO_PICTURES and rng.random() < 0.5:
        pictures[-1] = randomly_degraded(pictures[-1], rng)
    turns = [_turn(rng, scenes, pair, LISTED[level]) for _ in range(1 if level == ONE_THING else TURNS)]
    if rng.random() < 0.7:
        turns[0] = turns[0]._replace(question=f"{filler(rng, MOST_FILLER)}. {turns[0].question}")
    return Conversation(pictures, scenes, turns)
