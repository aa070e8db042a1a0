"""Whether x comes first in a source's boxes: no number shows it, but an edit changes more inside its boxes than elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

SIDE = 100  # pixels that images are compared at
ENOUGH_PIXELS = 20  # of one order alone
LEAST = 2.0  # mean difference of the more changed ones, of 255
RATIO = 1.5
DECIDED, NEARLY_ALL = 12, 0.9  # rows, for a word about their source; share of them


def x_first(source: Image.Image, edited: Image.Image, boxes: Sequence[Sequence[float]]) -> bool | None:
    """Whether the images differ more inside `boxes` (x1, y1, x2, y2 in 0..1000) than inside these with x and y exchanged.

    None where that is not plain: the two lie on each other, or both changed alike.
    """
    small = [np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.int16) for image in (source, edited)]
    difference = np.abs(small[0] - small[1]).mean(axis=2)
    inside = np.zeros((SIDE, SIDE), dtype=bool)
    for box in boxes:
        x1, y1, x2, y2 = (round(corner * SIDE / 1000) for corner in box)
        inside[y1:y2, x1:x2] = True
    mine, other = inside & ~inside.T, inside.T & ~inside
    if mine.sum() < ENOUGH_PIXELS:  # as many as of the other
        return None
    here, there = difference[mine].mean(), difference[other].mean()
    if max(here, there) < LEAST or max(here, there) < RATIO * min(here, there):
        return None
    return bool(here > there)


def order_problem(x_first_rows: int, y_first_rows: int, declared: str) -> str | None:
    """What to write where nearly all rows that show an order show the other one; None elsewhere."""
    decided = x_first_rows + y_first_rows
    if decided < DECIDED or y_first_rows < NEARLY_ALL * decided:
        return None
    other = {"xyxy_1000": "yxyx_1000", "yxyx_1000": "xyxy_1000"}.get(declared)
    advice = f"write `box_format: {other}`" if other else "no format has them so"
    seen = f"in {y_first_rows} of {decided} rows x and y look exchanged by what the edit changed"
    return f"box_format {declared}: {seen}: {advice}"
