"""Second part of the pretraining: a thing's name, read after its picture, leads to the thing's place.

To answer "Where is the red circle?" a model must carry the name to the picture, find the token that looks so, and bring
its corners back. From sentences alone that was not learnt in 1,000 steps; names in a row after a picture, and a
read-out of the corners where each name ends, teach it in 300. The read-out is thrown away after the sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.utils.data import IterableDataset
from transformers import Qwen2TokenizerFast, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from data.synthetic.scene import COLOURS, SHAPES, PixelBox
from tiny_base.vision import random_pictures

# Layers after which the read-out looks: one to join a colour to its shape, one to find the thing.
READ_AFTER = 2
Batch = dict[str, torch.Tensor]


def word_ids(
    tokenizer: Qwen2TokenizerFast, words: Sequence[str] = (*COLOURS, *SHAPES), before: str = " "
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


def name_ends(
    ids: Sequence[int], things: Sequence[Mapping[str, PixelBox]], tokenizer: Qwen2TokenizerFast
) -> Iterator[tuple[int, PixelBox]]:
    """(position, pixel box) of every token of a chat that ends the name of a thing of its turn.

    `things`: of each turn, the pixel boxes by name. Where a colour stands for one thing alone, its token counts too.
    """
    words = {token: word for word, token in word_ids(tokenizer).items()}
    words |= {token: word for word, token in word_ids(tokenizer, tuple(COLOURS), "").items()}
    opening = tokenizer.convert_tokens_to_ids("<|im_start|>")
    message = -1
    for place, token in enumerate(ids):
        message += token == opening
        word, boxes = words.get(token), things[max(0, message) // 2]
        if word in COLOURS:
            found = [box for name, box in boxes.items() if name.startswith(f"{word} ")]
            if len(found) == 1:
                yield place, found[0]
        elif word in SHAPES and (box := boxes.get(f"{words.get(ids[place - 1])} {word}")) is not None:
            yield place, box


def packed(found: Sequence[Sequence[tuple[int, PixelBox]]]) -> Batch:
    """`name_ends` of each row of a batch as tensors: `places` (n, 2) of row and position, `corners` (n, 4) in pixels."""
    flat = [(row, place, *box) for row, ends in enumerate(found) for place, box in ends]
    table = torch.tensor(flat, dtype=torch.long).reshape(-1, 6)
    return {"places": table[:, :2], "corners": table[:, 2:]}


class NamedThings(IterableDataset):
    """Endless batches of pictures, each with the names of its things after it, in random order."""

    def __init__(self, processor: Qwen3VLProcessor, batch: int, side: int, seed: int) -> None:
        self.processor, self.batch, self.side, self.seed = processor, batch, side, seed

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        rng = np.random.default_rng([self.seed, 3])
        while True:
            drawn = random_pictures(rng, self.batch, self.side)
            orders = [[one.scene.things[place] for place in rng.permutation(len(one.scene.things))] for one in drawn]
            texts = ["".join(f" {thing.name}" for thing in things) for things in orders]
            picture = "<|vision_start|><|image_pad|><|vision_end|>"
            inputs = self.processor(
                text=[picture + text for text in texts],
                images=[[one.picture] for one in drawn],
                padding=True,
                padding_side="right",
                return_tensors="pt",
            )
            boxes = [[{thing.name: thing.box for thing in things}] for things in orders]
            rows = zip(inputs["input_ids"].tolist(), boxes, strict=True)
            yield {**inputs, **packed([[*name_ends(ids, box, self.processor.tokenizer)] for ids, box in rows])}


class CornerHead(nn.Module):
    """Linear read-out of a thing's corners, in pixels, where its name ends."""

    def __init__(self, hidden: int, side: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.RMSNorm(hidden), nn.Linear(hidden, 4 * (side + 1))

    def loss(self, states: torch.Tensor, places: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy over the corners; `states` (rows, positions, hidden), the others as of `packed`."""
        found = self.linear(self.norm(states[places[:, 0], places[:, 1]])).unflatten(-1, (4, -1))
        return nn.functional.cross_entropy(found.flatten(0, 1), corners.flatten())


@torch.no_grad()
def look_for_likeness(model: Qwen3VLForConditionalGeneration) -> None:
    """Starts every query projection as its group's key projection, so that attention begins at tokens that are alike."""
    for layer in model.model.language_model.layers:
        attention = layer.self_attn
        keys = attention.k_proj.weight.unflatten(0, (-1, attention.head_dim))
        attention.q_proj.weight.copy_(keys.repeat_interleave(attention.num_key_value_groups, dim=0).flatten(0, 1))
