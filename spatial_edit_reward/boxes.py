"""Boxes of regions, [x1, y1, x2, y2] in 0..1000 of the edited image: the one check of a finite number and of a box."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Box = tuple[float, float, float, float]
# Both sides of an image, in the units of a box.
BOX_SCALE = 1000


def finite_number(value: Any) -> float | None:
    """`value` as a float if it is a JSON number that is finite as one, else None (booleans and strings are no numbers)."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return None
    return None


def true_boxes(reference: Mapping[str, Any]) -> list[Box]:
    """The boxes of a reference's regions, as floats."""
    corners = [region["bbox_2d"] for region in reference["edit_region"]]
    return [(float(x1), float(y1), float(x2), float(y2)) for x1, y1, x2, y2 in corners]


def valid_box(region: Any) -> Box | None:
    """A region's box if it is one: four finite numbers in 0..BOX_SCALE with x1 < x2 and y1 < y2; else None.

    >>> valid_box({"id": 0, "label": "cup", "bbox_2d": [10, 20, 300, 400]})
    (10.0, 20.0, 300.0, 400.0)
    >>> valid_box({"id": 0, "label": "cup", "bbox_2d": [300, 20, 10, 400]}) is None
    True
    """
    corners = region.get("bbox_2d") if isinstance(region, dict) else None
    if not isinstance(corners, list) or len(corners) != 4:
        return None
    numbers = [finite_number(corner) for corner in corners]
    x1, y1, x2, y2 = numbers
    if x1 is None or y1 is None or x2 is None or y2 is None:
        return None
    return (x1, y1, x2, y2) if 0 <= x1 < x2 <= BOX_SCALE and 0 <= y1 < y2 <= BOX_SCALE else None
