"""The regions of a public verdict -> canonical ones, numbered from 0, boxes in 0..1000; and the keys and numbers in them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from data.cleaning.box_format import DEFAULT, fits, to_thousandths
from data.cleaning.fixer import RowError, RowFixer
from spatial_edit_reward.boxes import BOX_SCALE, finite_number

REGION_KEYS = ("id", "label", "bbox_2d")
# Names of a box in other conventions, without separators -> the formats that must be declared for them to be read.
BOX_KEYS = {"box2d": ("yxyx_1000",), "bbox": ("xyxy_1000", "xyxy_1", "xyxy_pixel", "xywh_pixel")}
# "20", "20.5" and "20/25"
NUMBER = re.compile(r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*(?:/\s*\d+(?:\.\d+)?)?\s*")


def with_keys(content: dict[str, Any], keys: Sequence[str], owner: str, fixer: RowFixer) -> dict[str, Any]:
    """`content` with exactly `keys`: misspelt ones renamed, others left out. Raises RowError where one is missing."""
    result = {key: value for key, value in content.items() if key in keys}
    for key in [key for key in content if key not in keys]:
        near = difflib.get_close_matches(key.lower(), [name for name in keys if name not in result], n=1, cutoff=0.7)
        if near:
            fixer.fix("key_typo", f"{owner} has {key!r} for {near[0]!r}")
            result[near[0]] = content[key]
        else:
            fixer.fix("extra_key", f"{owner} has a key {key!r}")
    missing = [key for key in keys if key not in result]
    if missing:
        raise RowError("missing_key", f"{owner} has no {missing[0]!r}")
    return result


def read_number(value: Any, kind: str, fixer: RowFixer) -> float | None:
    """A finite number, also one written as text where the policy fixes `kind`; None for anything else."""
    if isinstance(value, str):
        match = NUMBER.fullmatch(value)
        if match is None:
            return None
        fixer.fix(kind, f"{value!r} is text")
        value = float(match.group(1))
    return finite_number(value)


def read_numbers(value: Any, count: int, kind: str, fixer: RowFixer) -> list[float] | None:
    """The `count` numbers of a list, read by `read_number`; None where it is no list of so many numbers."""
    if not isinstance(value, list | tuple):
        return None
    numbers = [number for entry in value if (number := read_number(entry, kind, fixer)) is not None]
    return numbers if len(numbers) == len(value) == count else None


def with_box_key(content: dict[str, Any], owner: str, fixer: RowFixer) -> dict[str, Any]:
    """`content` with the box under `bbox_2d`, also where it has the name that the source's declared format has elsewhere.

    Raises RowError for the name of another convention, which is no misspelling: it says in which order the numbers come.
    """
    if "bbox_2d" in content:
        return content
    for key, value in content.items():
        name = re.sub(r"[^a-z0-9]", "", key.lower())
        if "box" in name and name != "bbox2d":
            formats = BOX_KEYS.get(name, ())
            if fixer.declared_format in formats:
                return {"bbox_2d" if other == key else other: content[other] for other in content}
            advice = f"declare `box_format: {' or '.join(formats)}` if it is that" if formats else "it is not read"
            raise RowError("box_key", f"{owner} has {key!r} {str(value)[:40]}, a name of another convention: {advice}")
    return content


def read_box(value: Any, owner: str, fixer: RowFixer) -> list[float]:
    """[x1, y1, x2, y2] in 0..1000 with x1 < x2, y1 < y2; clamped and put in order where the policy fixes that.

    From the source's declared format, whole numbers where that is not ours. Raises RowError.
    """
    numbers = read_numbers(value, 4, "box_string", fixer)
    if numbers is None:
        raise RowError("box_shape", f"{owner} has the box {str(value)[:60]}")
    size = fixer.image_size()
    fixer.raw_boxes.append((numbers, size))
    box = to_thousandths(numbers, fixer.declared_format or DEFAULT, size)
    detail = f"{owner} has the box {numbers}"
    if min(box) < -fixer.box_tolerance or max(box) > BOX_SCALE + fixer.box_tolerance:
        raise RowError("box_outside", detail)
    if min(box) < 0 or max(box) > BOX_SCALE:
        fixer.fix("box_edge", detail)
    x1, y1, x2, y2 = (min(max(corner, 0.0), float(BOX_SCALE)) for corner in box)
    if x2 < x1 or y2 < y1:
        if fits(numbers, "xywh_pixel", size) or (x1 + x2 <= BOX_SCALE and y1 + y2 <= BOX_SCALE):
            raise RowError("box_swapped", f"{detail}, which may be x, y, width and height: `box_format: xywh_pixel`")
        fixer.fix("box_swapped", detail)
    if abs(x2 - x1) < 1 or abs(y2 - y1) < 1:
        shares = ", which may be shares of the sides: `box_format: xyxy_1`" if max(box) <= 1 else ""
        raise RowError("box_empty", detail + shares)
    return [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]


def read_label(value: Any, owner: str, fixer: RowFixer) -> str:
    """A region's label without white space around it or doubled in it."""
    if not isinstance(value, str) or not value.strip():
        raise RowError("label", f"{owner} has the label {value!r}")
    label = " ".join(value.split())
    if value != label:
        fixer.fix("label_space", f"{owner} has the label {value!r}")
    return label


def read_regions(value: Any, fixer: RowFixer) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """The regions, numbered from 0, and the new number of each old id."""
    if not isinstance(value, list) or not all(isinstance(region, dict) for region in value):
        raise RowError("region_shape", f"edit_region is {str(value)[:60]}")
    regions: list[dict[str, Any]] = []
    new_ids: dict[int, int] = {}
    for index, content in enumerate(value):
        owner = f"region {index}"
        region = with_keys(with_box_key(content, owner, fixer), REGION_KEYS, owner, fixer)
        label = read_label(region["label"], owner, fixer)
        old_id = read_number(region["id"], "region_id", fixer)
        if old_id is None or not old_id.is_integer():
            raise RowError("region_shape", f"{owner} has the id {region['id']!r}")
        if int(old_id) in new_ids:
            raise RowError("repeated_region_id", f"{owner} has the id {old_id:g} again")
        if int(old_id) != index:
            fixer.fix("region_id", f"{owner} has the id {old_id:g}")
        new_ids[int(old_id)] = index
        regions.append({"id": index, "label": label, "bbox_2d": read_box(region["bbox_2d"], owner, fixer)})
    return regions, new_ids
