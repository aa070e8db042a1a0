"""SpatialReward-Train: `sft/data.jsonl` and `rl/data.json`, verdicts with boxes, images in a folder or in tar parts.

Its card says little, so every usual shape is taken (`data.readers.chat`). A row of two images must name regions and a row of
one must not: what disagrees is an error of that row, never a guess. Rows of `rl/data.json` have no answer: the row of
`sft/data.jsonl` with the same images and instruction stands for each (`data.splits.join_answerless`).
"""

from __future__ import annotations

from collections.abc import Iterator

from data.readers.chat import chat_rows
from data.readers.raw import Raw
from data.recipe import Source


def rows(source: Source) -> Iterator[Raw]:
    """The rows of a `.jsonl` or `.json` file. Raises UserError where it cannot be read."""
    return chat_rows(source, regions_known=lambda answer: True)
