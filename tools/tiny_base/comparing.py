"""Beside the sentences: at every token of a second image, what stood there in the first, and whether that differs.

To tell what differs between two images a model must look at the same spot in both. From the answers alone that was not learnt
in ten minutes of sentences; a read-out of every token of the second image says where to look, and is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from data.synthetic.scene import SHAPES, Scene
from tools.tiny_base.vision import COLOR_WORDS, IGNORED, token_targets

# Layers after which the read-outs look.
FETCHED_AFTER, COMPARED_AFTER = 1, 2


def compare_tokens(image_tokens: torch.Tensor, scenes: Sequence[Sequence[Scene]], cell: int) -> dict[str, torch.Tensor]:
    """Positions and targets of the second images' tokens in a batch of chats with one or two images each.

    `image_tokens`: (rows, positions), true where a token stands for `cell` x `cell` pixels. Gives `cells` (n, 2) of row and
    position, and `cell_targets` (n, 7): those of `token_targets` in the first image, and whether the second one's differ.
    """
    cells, targets = [torch.empty(0, 2, dtype=torch.long)], [np.empty((0, 7), dtype=np.int64)]
    for row, images in enumerate(scenes):
        if len(images) == 2:
            first, second = (token_targets(scene, cell) for scene in images)
            positions = image_tokens[row].nonzero()[len(first) :]
            cells.append(torch.cat([torch.full_like(positions, row), positions], dim=1))
            targets.append(np.column_stack([first, (first != second).any(axis=1)]))
    return {"cells": torch.cat(cells), "cell_targets": torch.from_numpy(np.concatenate(targets))}


class CellHead(nn.Module):
    """Linear read-out of the targets of `compare_tokens` at the second image's tokens: what stood there before after one layer,
    whether it differs after the next, since a layer can either fetch it or hold it against what is there."""

    def __init__(self, hidden: int, side: int) -> None:
        super().__init__()
        self.sizes = [len(COLOR_WORDS), len(SHAPES) + 1, *[side + 1] * 4]
        self.norms = nn.ModuleList(nn.RMSNorm(hidden) for _ in (FETCHED_AFTER, COMPARED_AFTER))
        self.fetched, self.differs = nn.Linear(hidden, sum(self.sizes)), nn.Linear(hidden, 2)

    def loss(self, states: Sequence[torch.Tensor], cells: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of what stood there plus that of whether it differs.

        `states`: (rows, positions, hidden) before and after every layer; the others as of `compare_tokens`.
        """
        if not len(cells):
            return states[0].new_zeros(())
        rows, positions = cells.T
        fetched, differs = (
            norm(states[layer][rows, positions])
            for norm, layer in zip(self.norms, (FETCHED_AFTER, COMPARED_AFTER), strict=True)
        )
        parts = self.fetched(fetched).split(self.sizes, dim=-1)
        # A batch may hold no token with an item: its corners are then ignored one and all, which the mean cannot take.
        counted = [
            (part, target) for part, target in zip(parts, targets.T[:-1], strict=True) if (target != IGNORED).any()
        ]
        losses = [nn.functional.cross_entropy(part, target, ignore_index=IGNORED) for part, target in counted]
        return torch.stack(losses).mean() + nn.functional.cross_entropy(self.differs(differs), targets[:, -1])
