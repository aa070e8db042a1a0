"""First part of the pretraining: the vision tower learns, token by token, which item is there and where its box is.

From random weights a language model this small does not find out within thousands of steps that its images matter. A
read-out of every merged token (thrown away afterwards) tells the tower directly; the sentences then have it easy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import IterableDataset
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from data.synthetic.degrade import LOSS_PER_LEVEL, degrade
from data.synthetic.generate import CANDIDATES_PER_GROUP, random_group
from data.synthetic.scene import COLORS, SHAPES, Scene, draw_scene

GROUNDS = ("plain", "tinted")
# Largest difference between the mean red, green and blue of a plain background, and the means that only a tint gives:
# plain ones are pale or dark.
MOST_GRAY, BETWEEN_DARK_AND_PALE = 20, (80, 195)
# Targets of a token: index in COLOR_WORDS, shape (0: no item), then x1, y1, x2, y2 in pixels.
COLOR_WORDS = (*GROUNDS, *COLORS)
# Kinds of damage to a whole image; their levels are as many: 0 to 4.
DAMAGES = ("none", *LOSS_PER_LEVEL)
IGNORED = -100


def ground(scene: Scene) -> str:
    """One of GROUNDS: whether the background is pale or dark gray, as they are drawn, or tinted."""
    color = np.asarray(scene.background).mean(axis=(0, 1))
    least, most = BETWEEN_DARK_AND_PALE
    return GROUNDS[int(np.ptp(color) > MOST_GRAY or least < color.mean() < most)]


def token_targets(scene: Scene, cell: int) -> np.ndarray:
    """(tokens, 6) integer targets in reading order: the item that covers most of each `cell` x `cell` pixels, or ground."""
    width, height = scene.size
    nothing = [GROUNDS.index(ground(scene)), 0, *[IGNORED] * 4]
    targets = []
    for top in range(0, height, cell):
        for left in range(0, width, cell):
            best, most = nothing, 0
            for item in scene.items:
                x1, y1, x2, y2 = item.box
                shared = max(0, min(x2, left + cell) - max(x1, left)) * max(0, min(y2, top + cell) - max(y1, top))
                if shared > most:
                    most = shared
                    best = [COLOR_WORDS.index(item.color), SHAPES.index(item.shape) + 1, *item.box]
            targets.append(best)
    return np.array(targets)


class DrawnImage(NamedTuple):
    """A scene, its image, and what damage it has: index in DAMAGES and level 0..4."""

    scene: Scene
    image: Image.Image
    damage: tuple[int, int]


def random_images(rng: np.random.Generator, count: int, side: int) -> list[DrawnImage]:
    """About `count` images, every second one damaged."""
    drawn = []
    for number in range(count // CANDIDATES_PER_GROUP):
        for i, candidate in enumerate(random_group(rng, side, None)[2]):
            damaged = (number + i) % 2
            kind, level = (int(rng.integers(1, most)) * damaged for most in (len(DAMAGES), 5))
            image = draw_scene(candidate.scene)
            drawn.append(DrawnImage(candidate.scene, degrade(image, DAMAGES[kind], level, rng), (kind, level)))
    return drawn


class ScenesWithTargets(IterableDataset):
    """Endless batches of (pixel values, image grids, targets of every token): those of `token_targets`, then of damage."""

    def __init__(self, processor: Qwen3VLProcessor, batch: int, side: int, seed: int) -> None:
        self.processor, self.batch, self.side, self.seed = processor, batch, side, seed

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        torch.set_num_threads(1)
        rng = np.random.default_rng([self.seed, 2])
        images = self.processor.image_processor
        while True:
            drawn = random_images(rng, self.batch, self.side)
            inputs = images(images=[one.image for one in drawn], return_tensors="pt")
            items = [token_targets(one.scene, images.patch_size * images.merge_size) for one in drawn]
            targets = [
                np.column_stack([part, np.tile(one.damage, (len(part), 1))])
                for part, one in zip(items, drawn, strict=True)
            ]
            yield inputs["pixel_values"], inputs["image_grid_thw"], torch.from_numpy(np.concatenate(targets))


class TokenHead(nn.Module):
    """Read-out of a merged token's targets: its words by likeness to their embeddings, its corners and damage by linear layers.

    A token that is like the words for what it shows is found by attention that starts from those words.
    """

    def __init__(self, words: torch.Tensor, side: int) -> None:
        """`words`: embeddings of COLOR_WORDS and SHAPES, (words, hidden), which stay as they are."""
        super().__init__()
        self.words: torch.Tensor
        self.register_buffer("words", words)
        self.nothing = nn.Parameter(torch.randn(1, words.shape[1]) * words.std())
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.corners = nn.Linear(words.shape[1], 4 * (side + 1))
        self.damage = nn.Linear(words.shape[1], 2 * len(DAMAGES))

    def loss(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy over the eight targets; `tokens` (n, hidden), `targets` (n, 8)."""
        unit, corners = nn.functional.normalize(tokens, dim=-1), self.corners(tokens).chunk(4, dim=-1)
        colors, shapes = self.words.split([len(COLOR_WORDS), len(SHAPES)])
        names = [colors, torch.cat([self.nothing, shapes])]
        likeness = [self.scale * unit @ nn.functional.normalize(name, dim=-1).T for name in names]
        losses = [
            nn.functional.cross_entropy(part, targets[:, i], ignore_index=IGNORED)
            for i, part in enumerate([*likeness, *corners, *self.damage(tokens).chunk(2, dim=-1)])
        ]
        return torch.stack(losses).mean()


def spread_positions(model: Qwen3VLForConditionalGeneration) -> None:
    """Starts the position embeddings as sines and cosines of x and y, as strong as the patches' own content."""
    weight = model.model.visual.pos_embed.weight
    side, quarter = math.isqrt(weight.shape[0]), weight.shape[1] // 4
    angles = torch.arange(side)[:, None] / side * torch.linspace(0.5, 4, quarter)[None] * math.pi
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    grid = torch.cat([waves[:, None].expand(side, side, -1), waves[None].expand(side, side, -1)], dim=-1)
    with torch.no_grad():
        weight.copy_(0.7 * grid.reshape(side * side, -1))
