"""The text of a public verdict -> a canonical reference: what the policy lets be fixed is fixed, anything else is a Fault."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import json_repair

from data.faults import Fault, Mender
from rewards_fn.completion import finite
from rewards_fn.form import failed_checks
from verdict import KEYS, Task, Verdict
from verdict.schema import TAG

REGION_KEYS = ("id", "label", "bbox_2d")
THINK = re.compile(r"\A\s*(?:<think>)?(?:(?!<think>).)*?</think>", re.DOTALL)
FENCE = re.compile(r"```\w*\s*(.*?)\s*```", re.DOTALL)
# "20", "20.5" and "20/25"
NUMBER = re.compile(r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*(?:/\s*\d+(?:\.\d+)?)?\s*")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise Fault("repeated_key", "a key is given twice")
    return keys


def _no_constant(name: str) -> NoReturn:
    raise Fault("unreadable_verdict", f"{name} is no JSON number")


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def read_object(text: str, mender: Mender) -> dict[str, Any]:
    """The JSON object in `text`, without thoughts, fences and prose around it."""
    thought = THINK.match(text)
    if thought:
        mender.mend("think", "the answer thinks aloud first")
        text = text[thought.end() :]
    fenced = FENCE.search(text)
    if fenced and not text[: fenced.start()].count("{"):
        mender.mend("fence", "the verdict is in a code fence")
        text = f"{text[: fenced.start()]}{fenced.group(1)}{text[fenced.end() :]}"
    text = text.strip()
    start = text.find("{")
    if start < 0:
        raise Fault("unreadable_verdict", f"no JSON object in {text[:60]!r}")
    try:
        found, end = DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        found, end = mended(text[start:], str(error), mender), len(text)
    if start > 0 or end < len(text):
        mender.mend("prose", "text around the JSON object")
    if not isinstance(found, dict):
        raise Fault("unreadable_verdict", f"a JSON {type(found).__name__}, no object")
    return found


def mended(text: str, why: str, mender: Mender) -> Any:
    """`text` read by json_repair. Raises Fault where that is not allowed, or gives no object."""
    try:
        found = json_repair.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not found:
        raise Fault("unreadable_verdict", f"no JSON: {why}")
    mender.mend("broken_json", why)
    return found


def with_keys(found: dict[str, Any], keys: Sequence[str], of: str, mender: Mender) -> dict[str, Any]:
    """`found` with exactly `keys`: misspelt ones renamed, others left out. Raises Fault where one is missing."""
    result = {key: value for key, value in found.items() if key in keys}
    for key in [key for key in found if key not in keys]:
        near = difflib.get_close_matches(key.lower(), [name for name in keys if name not in result], n=1, cutoff=0.7)
        if near:
            mender.mend("key_typo", f"{of} has {key!r} for {near[0]!r}")
            result[near[0]] = found[key]
        else:
            mender.mend("extra_key", f"{of} has a key {key!r}")
    missing = [key for key in keys if key not in result]
    if missing:
        raise Fault("missing_key", f"{of} has no {missing[0]!r}")
    return result


def number(value: Any, kind: str, mender: Mender) -> float | None:
    """A finite number, also one written as text where the policy fixes `kind`; None for anything else."""
    if isinstance(value, str):
        match = NUMBER.fullmatch(value)
        if match is None:
            return None
        mender.mend(kind, f"{value!r} is text")
        value = float(match.group(1))
    return finite(value)


def read_box(value: Any, at: str, tolerance: float, mender: Mender) -> list[float]:
    """Four corners in 0..1000, x1 < x2, y1 < y2. `tolerance`: how far out of 0..1000 is still clamped."""
    corners = [number(one, "box_string", mender) for one in value] if isinstance(value, list) else []
    if len(corners) != 4 or any(corner is None for corner in corners):
        raise Fault("box_shape", f"{at} has the box {str(value)[:60]}")
    box = [corner for corner in corners if corner is not None]
    if min(box) < -tolerance or max(box) > 1000 + tolerance:
        raise Fault("box_outside", f"{at} has the box {box}")
    if min(box) < 0 or max(box) > 1000:
        mender.mend("box_edge", f"{at} has the box {box}")
        box = [min(max(corner, 0.0), 1000.0) for corner in box]
    x1, y1, x2, y2 = box
    if x2 < x1 or y2 < y1:
        mender.mend("box_swapped", f"{at} has the box {box}")
        x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    if x1 == x2 or y1 == y2:
        raise Fault("box_empty", f"{at} has the box {box}")
    return [x1, y1, x2, y2]


def read_regions(value: Any, tolerance: float, mender: Mender) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """The regions, numbered from 0, and the new number of each old id."""
    if not isinstance(value, list) or not all(isinstance(region, dict) for region in value):
        raise Fault("region_shape", f"edit_region is {str(value)[:60]}")
    regions: list[dict[str, Any]] = []
    numbers: dict[int, int] = {}
    for place, given in enumerate(value):
        at = f"region {place}"
        region = with_keys(given, REGION_KEYS, at, mender)
        label = region["label"]
        if not isinstance(label, str) or not label.strip():
            raise Fault("label", f"{at} has the label {label!r}")
        if label != " ".join(label.split()):
            mender.mend("label_space", f"{at} has the label {label!r}")
        old = number(region["id"], "region_id", mender)
        if old is None or not old.is_integer():
            raise Fault("region_shape", f"{at} has the id {region['id']!r}")
        if int(old) in numbers:
            raise Fault("repeated_region_id", f"{at} has the id {old:g} again")
        if int(old) != place:
            mender.mend("region_id", f"{at} has the id {old:g}")
        numbers[int(old)] = place
        box = read_box(region["bbox_2d"], at, tolerance, mender)
        regions.append({"id": place, "label": " ".join(label.split()), "bbox_2d": box})
    return regions, numbers


def read_scores(value: Any, given: tuple[float, float], wanted: tuple[float, float], mender: Mender) -> list[float]:
    """Two scores, checked against the range `given` and rescaled to the range `wanted`."""
    listed = value if isinstance(value, list | tuple) else []
    found = [number(one, "score_string", mender) for one in listed]
    scores = [score for score in found if score is not None and math.isfinite(score)]
    if len(listed) != 2 or len(scores) != 2:
        raise Fault("score_shape", f"score is {str(value)[:60]}")
    if not all(given[0] <= score <= given[1] for score in scores):
        raise Fault("score_outside", f"score is {scores}, the source's range {given[0]:g}..{given[1]:g}")
    if given == wanted:
        return scores
    scale = (wanted[1] - wanted[0]) / (given[1] - given[0])
    return [wanted[0] + (score - given[0]) * scale for score in scores]


def renumbered(reasoning: str, numbers: dict[int, int], mender: Mender) -> str:
    """`reasoning` with its cites changed to the new numbers; a cite of no region is taken out where the policy fixes it."""

    def new(match: re.Match[str]) -> str:
        old = match.group(1)
        if old is None:
            return match.group(0)
        if len(old) > 9 or int(old) not in numbers:
            mender.mend("cite_without_box", f"the reasoning cites region {old[:9]}, which is not there")
            return ""
        return f"<|bbox_{numbers[int(old)]}|>"

    return TAG.sub(new, reasoning)


def read_verdict(
    text: str,
    task: Task,
    regions_known: bool,
    given: tuple[float, float],
    wanted: tuple[float, float],
    tolerance: float,
    mender: Mender,
) -> dict[str, Any]:
    """The reference in the verdict `text`: what it renders to passes every check of the `format` reward.

    `regions_known`: False for a source without boxes, whose `sc` verdicts get the region null. `given`, `wanted`: the source's
    score range and the spec's. `tolerance`: see `read_box`. Raises Fault with the first thing that the policy does not fix.
    """
    found = read_object(text, mender)
    if task == "pq" and "edit_region" in found and not ({"reasoning", "score"} - set(found)):
        raise Fault("task_disagrees", "one image, and a verdict with edit_region")
    if task == "sc" and regions_known and not names_regions(found):
        raise Fault("task_disagrees", "two images, and a verdict without edit_region")
    keys = KEYS[task] if regions_known else KEYS["pq"]
    verdict = with_keys(found, keys, "the verdict", mender)
    if [key for key in verdict if key in found] != [key for key in keys if key in found]:
        mender.mend("key_order", f"the keys come as {', '.join(found)}")
    if not isinstance(verdict["reasoning"], str):
        raise Fault("reasoning_form", f"reasoning is {type(verdict['reasoning']).__name__}")
    regions, reasoning = None, verdict["reasoning"].strip()
    if "edit_region" in keys:
        regions, numbers = read_regions(verdict["edit_region"], tolerance, mender)
        reasoning = renumbered(reasoning, numbers, mender)
    scores = read_scores(verdict["score"], given, wanted, mender)
    if regions is not None or task == "pq":
        failed = failed_checks(Verdict(task, regions, reasoning, list(scores)))
        if failed:
            raise Fault("reasoning_form", f"it fails {', '.join(failed)}")
    return {"edit_region": regions, "score": scores, "reasoning": reasoning}


def names_regions(keys: Iterable[str]) -> bool:
    return bool(difflib.get_close_matches("edit_region", [key.lower() for key in keys], n=1, cutoff=0.7))
