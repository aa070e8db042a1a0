"""Second part of the pretraining: an item's name, read after its image, leads to the item's box.

To answer "Where is the red circle?" a model must carry the name to the image, find the token that looks so, and bring
its corners back. From sentences alone that was not learnt in 1,000 steps; names in a row after a image, and a
read-out of the corners where each name ends, teach it in 300. After two images of the same items in other positions, names
teach in the same way which image is meant. The read-outs are thrown away after the sentences.
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
from tools.tiny_base.vision import IGNORED, random_images

# Layers after which the read-out looks: one to join a color to its shape, one to find the item.
READ_AFTER = 2
Batch = dict[str, torch.Tensor]
# Share of the batches with two images of the same items, the words for the two, and how many names follow them at least.
IN_TWO_IMAGES, ORDINALS, MENTIONS = 0.7, ("first", "second"), 8
# Which image, and the pixel boxes of its items by name.
About = tuple[int, Mapping[str, PixelBox]]


def boxes_of(scene: Scene) -> dict[str, PixelBox]:
    """Pixel boxes of a scene's items by name."""
    return {item.name: item.box for item in scene.items}


def word_ids(
    tokenizer: Qwen2TokenizerFast, words: Sequence[str] = (*COLORS, *SHAPES), before: str = " "
) -> dict[str, int]:
    """Token id of every one of `words` as it stands after `before`: a space, or nothing, as after a quotation mark.

    Raises ValueError where one has no token of its own.
    """
    ids = {}
    for word in words:
        tokens = tokenizer(f"{before}{word}")["input_ids"]
        if len(tokens) != 1:
            raise ValueError(f"the tokenizer has no token of its own for {before + word!r}")
        ids[word] = tokens[0]
    return ids


@cache
def name_words(tokenizer: Qwen2TokenizerFast) -> dict[int, str]:
    """The colors and shapes by their tokens: after a space; colors in quotation marks too, also at the start of an answer."""
    words = {token: word for word, token in word_ids(tokenizer).items()}
    for mark in ("", '"'):
        words |= {token: word for word, token in word_ids(tokenizer, tuple(COLORS), mark).items()}
    return words


class NameEnd(NamedTuple):
    """Where an item's name ends in a chat, its pixel box, and which of two images is meant (IGNORED: there is one)."""

    position: int
    box: PixelBox
    image: int


def name_ends(ids: Sequence[int], about: Sequence[Sequence[About]], tokenizer: Qwen2TokenizerFast) -> Iterator[NameEnd]:
    """Every token of a chat that ends the name of an item in the image that is meant there.

    `about`: of each turn, the images that the names in its answer are about, in turn: of two, every second name is about the
    second. Names in a question count where it is about one. Where a color stands for one item alone, its token counts too.
    """
    words = name_words(tokenizer)
    opening = tokenizer.convert_tokens_to_ids("<|im_start|>")
    message, named = -1, 0
    for position, token in enumerate(ids):
        if token == opening:
            message, named = message + 1, 0
        word, images = words.get(token), about[max(0, message) // 2]
        if word is None or not images or (len(images) > 1 and message % 2 == 0):
            continue
        image, boxes = images[named % len(images)]
        if word in COLORS:
            of_color = [box for name, box in boxes.items() if name.startswith(f"{word} ")]
            if len(of_color) == 1:
                yield NameEnd(position, of_color[0], image)
        elif (color := words.get(ids[position - 1], "")) in COLORS:
            named += 1
            if (box := boxes.get(f"{color} {word}")) is not None:
                yield NameEnd(position, box, image)


def pack(ends_by_row: Sequence[Sequence[NameEnd]]) -> Batch:
    """`name_ends` of each row of a batch: `positions` (n, 2) of row and position, `corners` (n, 4) in pixels, `images` (n,)."""
    flat = [(row, end.position, *end.box, end.image) for row, ends in enumerate(ends_by_row) for end in ends]
    table = torch.tensor(flat, dtype=torch.long).reshape(-1, 7)
    return {"positions": table[:, :2], "corners": table[:, 2:6], "images": table[:, 6]}


def _one_image(scene: Scene, rng: np.random.Generator) -> tuple[str, list[About]]:
    """The names of all items in random order, and what they are about."""
    names = [scene.items[i].name for i in rng.permutation(len(scene.items))]
    return "".join(f" {name}" for name in names), [(IGNORED, boxes_of(scene))]


def _two_images(both: Sequence[Scene], rng: np.random.Generator) -> tuple[str, list[About]]:
    """MENTIONS names of items or a few more, each after the image that is meant, up to three at a time."""
    known, text, about = [boxes_of(scene) for scene in both], "", list[About]()
    while len(about) < MENTIONS:
        index = int(rng.integers(2))
        names = list(known[index])
        chosen = [names[i] for i in rng.permutation(len(names))[: int(rng.integers(1, 4))]]
        text += f" in the {ORDINALS[index]} picture, {' '.join(chosen)}"
        about += [(index, known[index])] * len(chosen)
    return text, about


class NamedItems(IterableDataset):
    """Endless batches of names after images: after one, those of all its items; after two, those in the one that is named."""

    def __init__(self, processor: Qwen3VLProcessor, batch: int, side: int, seed: int) -> None:
        self.processor, self.batch, self.side, self.seed = processor, batch, side, seed

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        rng = np.random.default_rng([self.seed, 3])
        while True:
            if rng.random() < IN_TWO_IMAGES:
                scenes = [rearranged_scenes(rng, self.side) for _ in range(self.batch // 2)]
                images = [[draw_scene(scene) for scene in both] for both in scenes]
                texts = [_two_images(both, rng) for both in scenes]
            else:
                drawn = random_images(rng, self.batch, self.side)
                images = [[one.image] for one in drawn]
                texts = [_one_image(one.scene, rng) for one in drawn]
            shown = ("<|vision_start|><|image_pad|><|vision_end|>" * len(group) for group in images)
            inputs = self.processor(
                text=[before + text for before, (text, _) in zip(shown, texts, strict=True)],
                images=images,
                padding=True,
                padding_side="right",
                return_tensors="pt",
            )
            rows = zip(inputs["input_ids"].tolist(), texts, strict=True)
            yield {
                **inputs,
                **pack([[*name_ends(ids, [about], self.processor.tokenizer)] for ids, (_, about) in rows]),
            }


class CornerHead(nn.Module):
    """Linear read-outs where an item's name ends: its corners in pixels, and a layer before which of two images is meant.

    An item that stands elsewhere in the other image is found only by a name that holds both, the item and the image;
    from the corners and the answers alone that was not learnt in an hour of sentences.
    """

    def __init__(self, hidden: int, side: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.RMSNorm(hidden), nn.Linear(hidden, 4 * (side + 1))
        self.image = nn.Sequential(nn.RMSNorm(hidden), nn.Linear(hidden, 2))

    def loss(
        self, states: Sequence[torch.Tensor], positions: torch.Tensor, corners: torch.Tensor, images: torch.Tensor
    ) -> torch.Tensor:
        """Mean cross-entropy over the corners plus that over the images.

        `states`: (rows, positions, hidden) before and after every layer; the others as of `packed`.
        """
        rows, columns = positions.T
        logits = self.linear(self.norm(states[READ_AFTER][rows, columns])).unflatten(-1, (4, -1))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), corners.flatten())
        if (images == IGNORED).all():
            return loss
        meant = self.image(states[READ_AFTER - 1][rows, columns])
        return loss + nn.functional.cross_entropy(meant, images, ignore_index=IGNORED)


@torch.no_grad()
def look_for_likeness(model: Qwen3VLForConditionalGeneration) -> None:
    """Starts every query projection as its group's key projection, so that attention begins at tokens that are alike."""
    for layer in model.model.language_model.layers:
        attention = layer.self_attn
        keys = attention.k_proj.weight.unflatten(0, (-1, attention.head_dim))
        attention.q_proj.weight.copy_(keys.repeat_interleave(attention.num_key_value_groups, dim=0).flatten(0, 1))
