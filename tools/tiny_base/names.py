"""Second part of the pretraining: a thing's name, read after its picture, leads to the thing's place.

To answer "Where is the red circle?" a model must carry the name to the picture, find the token that looks so, and bring
its corners back. From sentences alone that was not learnt in 1,000 steps; names in a row after a picture, and a
read-out of the corners where each name ends, teach it in 300. After two pictures of the same things in other places, names
teach in the same way which picture is meant. The read-outs are thrown away after the sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import IterableDataset
from transformers import Qwen2TokenizerFast, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from data.synthetic.scene import COLORS, SHAPES, PixelBox, Scene, draw_scene
from tools.tiny_base.pairs import rearranged_scenes
from tools.tiny_base.vision import IGNORED, random_pictures

# Layers after which the read-out looks: one to join a colour to its shape, one to find the thing.
READ_AFTER = 2
Batch = dict[str, torch.Tensor]
# Share of the batches with two pictures of the same things, the words for the two, and how many names follow them at least.
IN_TWO_PICTURES, ORDINALS, MENTIONS = 0.7, ("first", "second"), 8
# Which picture, and the pixel boxes of its things by name.
About = tuple[int, Mapping[str, PixelBox]]


def boxes_of(scene: Scene) -> dict[str, PixelBox]:
    """Pixel boxes of a scene's things by name."""
    return {item.name: item.box for item in scene.items}


def word_ids(
    tokenizer: Qwen2TokenizerFast, words: Sequence[str] = (*COLORS, *SHAPES), before: str = " "
) -> dict[str, int]:
    """Token id of every one of `words` as it stands after `before`: a space, or nothing, as after a quotation mark.

    Raises ValueError where one has no token of its own.
    """
    ids = {}
    for word in words:
        found = tokenizer(f"{before}{word}")["input_ids"]
        if len(found) != 1:
            raise ValueError(f"the tokenizer has no token of its own for {before + word!r}")
        ids[word] = found[0]
    return ids


@cache
def name_words(tokenizer: Qwen2TokenizerFast) -> dict[int, str]:
    """The colours and shapes by their tokens: after a space; colours in quotation marks too, also at the start of an answer."""
    words = {token: word for word, token in word_ids(tokenizer).items()}
    for mark in ("", '"'):
        words |= {token: word for word, token in word_ids(tokenizer, tuple(COLORS), mark).items()}
    return words


class NameEnd(NamedTuple):
    """Where a thing's name ends in a chat, its pixel box, and which of two pictures is meant (IGNORED where there is one)."""

    place: int
    box: PixelBox
    picture: int


def name_ends(ids: Sequence[int], about: Sequence[Sequence[About]], tokenizer: Qwen2TokenizerFast) -> Iterator[NameEnd]:
    """Every token of a chat that ends the name of a thing in the picture that is meant there.

    `about`: of each turn, the pictures that the names in its answer are about, in turn: of two, every second name is about the
    second. Names in a question count where it is about one. Where a colour stands for one thing alone, its token counts too.
    """
    words = name_words(tokenizer)
    opening = tokenizer.convert_tokens_to_ids("<|im_start|>")
    message, named = -1, 0
    for place, token in enumerate(ids):
        if token == opening:
            message, named = message + 1, 0
        word, pictures = words.get(token), about[max(0, message) // 2]
        if word is None or not pictures or (len(pictures) > 1 and message % 2 == 0):
            continue
        picture, boxes = pictures[named % len(pictures)]
        if word in COLORS:
            found = [box for name, box in boxes.items() if name.startswith(f"{word} ")]
            if len(found) == 1:
                yield NameEnd(place, found[0], picture)
        elif (colour := words.get(ids[place - 1], "")) in COLORS:
            named += 1
            if (box := boxes.get(f"{colour} {word}")) is not None:
                yield NameEnd(place, box, picture)


def packed(found: Sequence[Sequence[NameEnd]]) -> Batch:
    """`name_ends` of each row of a batch: `places` (n, 2) of row and position, `corners` (n, 4) in pixels, `pictures` (n,)."""
    flat = [(row, end.place, *end.box, end.picture) for row, ends in enumerate(found) for end in ends]
    table = torch.tensor(flat, dtype=torch.long).reshape(-1, 7)
    return {"places": table[:, :2], "corners": table[:, 2:6], "pictures": table[:, 6]}


def _one_picture(one: Scene, rng: np.random.Generator) -> tuple[str, list[About]]:
    """The names of all things in random order, and what they are about."""
    names = [one.items[place].name for place in rng.permutation(len(one.items))]
    return "".join(f" {name}" for name in names), [(IGNORED, boxes_of(one))]


def _two_pictures(both: Sequence[Scene], rng: np.random.Generator) -> tuple[str, list[About]]:
    """MENTIONS names of things or a few more, told after the picture that is meant, up to three at a time."""
    known, text, about = [boxes_of(scene) for scene in both], "", list[About]()
    while len(about) < MENTIONS:
        index = int(rng.integers(2))
        names = list(known[index])
        told = [names[place] for place in rng.permutation(len(names))[: int(rng.integers(1, 4))]]
        text += f" in the {ORDINALS[index]} picture, {' '.join(told)}"
        about += [(index, known[index])] * len(told)
    return text, about


class NamedThings(IterableDataset):
    """Endless batches of names after pictures: after one, those of all its things; after two, those in the one that is told."""

    def __init__(self, processor: Qwen3VLProcessor, batch: int, side: int, seed: int) -> None:
        self.processor, self.batch, self.side, self.seed = processor, batch, side, seed

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        rng = np.random.default_rng([self.seed, 3])
        while True:
            if rng.random() < IN_TWO_PICTURES:
                scenes = [rearranged_scenes(rng, self.side) for _ in range(self.batch // 2)]
                pictures = [[draw_scene(scene) for scene in both] for both in scenes]
                texts = [_two_pictures(both, rng) for both in scenes]
            else:
                drawn = random_pictures(rng, self.batch, self.side)
                pictures = [[one.picture] for one in drawn]
                texts = [_one_picture(one.scene, rng) for one in drawn]
            shown = ("<|vision_start|><|image_pad|><|vision_end|>" * len(group) for group in pictures)
            inputs = self.processor(
                text=[before + text for before, (text, _) in zip(shown, texts, strict=True)],
                images=pictures,
                padding=True,
                padding_side="right",
                return_tensors="pt",
            )
            rows = zip(inputs["input_ids"].tolist(), texts, strict=True)
            yield {
                **inputs,
                **packed([[*name_ends(ids, [about], self.processor.tokenizer)] for ids, (_, about) in rows]),
            }


class CornerHead(nn.Module):
    """Linear read-outs where a thing's name ends: its corners in pixels, and a layer before which of two pictures is meant.

    A thing that stands elsewhere in the other picture is found only by a name that holds both, the thing and the picture;
    from the corners and the answers alone that was not learnt in an hour of sentences.
    """

    def __init__(self, hidden: int, side: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.RMSNorm(hidden), nn.Linear(hidden, 4 * (side + 1))
        self.picture = nn.Sequential(nn.RMSNorm(hidden), nn.Linear(hidden, 2))

    def loss(
        self, states: Sequence[torch.Tensor], places: torch.Tensor, corners: torch.Tensor, pictures: torch.Tensor
    ) -> torch.Tensor:
        """Mean cross-entropy over the corners plus that over the pictures.

        `states`: (rows, positions, hidden) before and after every layer; the others as of `packed`.
        """
        rows, columns = places.T
        found = self.linear(self.norm(states[READ_AFTER][rows, columns])).unflatten(-1, (4, -1))
        loss = nn.functional.cross_entropy(found.flatten(0, 1), corners.flatten())
        if (pictures == IGNORED).all():
            return loss
        meant = self.picture(states[READ_AFTER - 1][rows, columns])
        return loss + nn.functional.cross_entropy(meant, pictures, ignore_index=IGNORED)


@torch.no_grad()
def look_for_likeness(model: Qwen3VLForConditionalGeneration) -> None:
    """Starts every query projection as its group's key projection, so that attention begins at tokens that are alike."""
    for layer in model.model.language_model.layers:
        attention = layer.self_attn
        keys = attention.k_proj.weight.unflatten(0, (-1, attention.head_dim))
        attention.q_proj.weight.copy_(keys.repeat_interleave(attention.num_key_value_groups, dim=0).flatten(0, 1))
