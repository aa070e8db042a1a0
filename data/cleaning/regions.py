"""The regions of a public verdict -> canonical ones, numbered from 0, boxes in 0..1000; and the keys and numbers in them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from data.cleaning.fixer import RowError, RowFixer
from spatial_edit_reward.boxes import finite_number

REGION_KEYS = ("id", "label", "bbox_2d")
# "20", "20.5" and "20/25"
NUMBER = re.compile(r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*(?:/\s*\d+(?:\.\d+)?)?\s*")


def with_keys(found: dict[str, Any], keys: Sequence[str], of: str, fixer: RowFixer) -> dict[str, Any]:
    """`found` with exactly `keys`: misspelt ones renamed, others left out. Raises RowError where one is missing."""
    result = {key: value for key, value in found.items() if key in keys}
    for key in [key for key in found if key not in keys]:
        near = difflib.get_close_matches(key.lower(), [name for name in keys if name not in result], n=1, cutoff=0.7)
        if near:
            fixer.fix("key_typo", f"{of} has {key!r} for {near[0]!r}")
            result[near[0]] = found[key]
        else:
            fixer.fix("extra_key", f"{of} has a key {key!r}")
    missing = [key for key in keys if key not in result]
    if missing:
        raise RowError("missing_key", f"{of} has no {missing[0]!r}")
    return result


def number(value: Any, kind: str, fixer: RowFixer) -> float | None:
    """A finite number, also one written as text where the policy fixes `kind`; None for anything else."""
    if isinstance(value, str):
        match = NUMBER.fullmatch(value)
        if match is None:
            return None
        fixer.fix(kind, f"{value!r} is text")
        value = float(match.group(1))
    return finite_number(value)


def read_box(value: Any, at: str, tolerance: float, fixer: RowFixer) -> list[float]:
    """Four corners in 0..1000, x1 < x2, y1 < y2. `tolerance`: how far out of 0..1000 is still clamped."""
    corners = [number(one, "box_string", fixer) for one in value] if isinstance(value, list) else []
    if len(corners) != 4 or any(corner is None for corner in corners):
        raise RowError("box_shape", f"{at} has the box {str(value)[:60]}")
    box = [corner for corner in corners if corner is not None]
    if min(box) < -tolerance or max(box) > 1000 + tolerance:
        raise RowError("box_outside", f"{at} has the box {box}")
    if min(box) < 0 or max(box) > 1000:
        fixer.fix("box_edge", f"{at} has the box {box}")
        box = [min(max(corner, 0.0), 1000.0) for corner in box]
    x1, y1, x2, y2 = box
    if x2 < x1 or y2 < y1:
        fixer.fix("box_swapped", f"{at} has the box {box}")
        x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    if x1 == x2 or y1 == y2:
        raise RowError("box_empty", f"{at} has the box {box}")
    return [x1, y1, x2, y2]


def read_regions(value: Any, tolerance: float, fixer: RowFixer) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """The regions, numbered from 0, and the new number of each old id."""
    if not isinstance(value, list) or not all(isinstance(region, dict) for region in value):
        raise RowError("region_shape", f"edit_region is {str(value)[:60]}")
    regions: list[dict[str, Any]] = []
    numbers: dict[int, int] = {}
    for place, given in enumerate(value):
        at = f"region {place}"
        region = with_keys(given, REGION_KEYS, at, fixer)
        label = region["label"]
        if not isinstance(label, str) or not label.strip():
            raise RowError("label", f"{at} has the label {label!r}")
        if label != " ".join(label.split()):
            fixer.fix("label_space", f"{at} has the label {label!r}")
        old = number(region["id"], "region_id", fixer)
        if old is None or not old.is_integer():
            raise RowError("region_shape", f"{at} has the id {region['id']!r}")
        if int(old) in numbers:
            raise RowError("repeated_region_id", f"{at} has the id {old:g} again")
        if int(old) != place:
            fixer.fix("region_id", f"{at} has the id {old:g}")
        numbers[int(old)] = place
        box = read_box(region["bbox_2d"], at, tolerance, fixer)
        regions.append({"id": place, "label": " ".join(label.split()), "bbox_2d": box})
    return regions, numbers
