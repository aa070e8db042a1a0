"""The text of a public verdict -> a canonical reference: what the policy allows is fixed, anything else is a RowError."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable
from typing import Any, NoReturn

import json_repair

from data.cleaning.fixer import RowError, RowFixer
from data.cleaning.regions import number, read_regions, with_keys
from spatial_edit_reward import KEYS, Task, Verdict
from spatial_edit_reward.checks import failed_checks
from spatial_edit_reward.schema import TAG

THINK = re.compile(r"\A\s*(?:<think>)?(?:(?!<think>).)*?</think>", re.DOTALL)
FENCE = re.compile(r"```\w*\s*(.*?)\s*```", re.DOTALL)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise RowError("repeated_key", "a key is given twice")
    return keys


def _no_constant(name: str) -> NoReturn:
    raise RowError("unreadable_verdict", f"{name} is no JSON number")


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def read_object(text: str, fixer: RowFixer) -> dict[str, Any]:
    """The JSON object in `text`, without thoughts, fences and prose around it."""
    thought = THINK.match(text)
    if thought:
        fixer.fix("think", "the answer thinks aloud first")
        text = text[thought.end() :]
    fenced = FENCE.search(text)
    if fenced and not text[: fenced.start()].count("{"):
        fixer.fix("fence", "the verdict is in a code fence")
        text = f"{text[: fenced.start()]}{fenced.group(1)}{text[fenced.end() :]}"
    text = text.strip()
    start = text.find("{")
    if start < 0:
        raise RowError("unreadable_verdict", f"no JSON object in {text[:60]!r}")
    try:
        found, end = DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        found, end = mended(text[start:], str(error), fixer), len(text)
    if start > 0 or end < len(text):
        fixer.fix("prose", "text around the JSON object")
    if not isinstance(found, dict):
        raise RowError("unreadable_verdict", f"a JSON {type(found).__name__}, no object")
    return found


def mended(text: str, why: str, fixer: RowFixer) -> Any:
    """`text` read by json_repair. Raises RowError where that is not allowed, or gives no object."""
    try:
        found = json_repair.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not found:
        raise RowError("unreadable_verdict", f"no JSON: {why}")
    fixer.fix("broken_json", why)
    return found


def read_scores(value: Any, given: tuple[float, float], wanted: tuple[float, float], fixer: RowFixer) -> list[float]:
    """Two scores, checked against the range `given` and rescaled to the range `wanted`."""
    listed = value if isinstance(value, list | tuple) else []
    found = [number(one, "score_string", fixer) for one in listed]
    scores = [score for score in found if score is not None and math.isfinite(score)]
    if len(listed) != 2 or len(scores) != 2:
        raise RowError("score_shape", f"score is {str(value)[:60]}")
    if not all(given[0] <= score <= given[1] for score in scores):
        raise RowError("score_outside", f"score is {scores}, the source's range {given[0]:g}..{given[1]:g}")
    if given == wanted:
        return scores
    scale = (wanted[1] - wanted[0]) / (given[1] - given[0])
    return [wanted[0] + (score - given[0]) * scale for score in scores]


def renumbered(reasoning: str, numbers: dict[int, int], fixer: RowFixer) -> str:
    """`reasoning` with its cites changed to the new numbers; a cite of no region is taken out where the policy fixes it."""

    def new(match: re.Match[str]) -> str:
        old = match.group(1)
        if old is None:
            return match.group(0)
        if len(old) > 9 or int(old) not in numbers:
            fixer.fix("cite_without_box", f"the reasoning cites region {old[:9]}, which is not there")
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
    fixer: RowFixer,
) -> dict[str, Any]:
    """The reference in the verdict `text`: what it renders to passes every check of the `format` reward.

    `regions_known`: False for a source without boxes, whose `sc` verdicts get the region null. `given`, `wanted`: the source's
    score range and the spec's. `tolerance`: see `read_box`. Raises RowError with the first thing that the policy does not fix.
    """
    found = read_object(text, fixer)
    if task == "pq" and "edit_region" in found and not ({"reasoning", "score"} - set(found)):
        raise RowError("task_disagrees", "one image, and a verdict with edit_region")
    if task == "sc" and regions_known and not names_regions(found):
        raise RowError("task_disagrees", "two images, and a verdict without edit_region")
    keys = KEYS[task] if regions_known else KEYS["pq"]
    verdict = with_keys(found, keys, "the verdict", fixer)
    if [key for key in verdict if key in found] != [key for key in keys if key in found]:
        fixer.fix("key_order", f"the keys come as {', '.join(found)}")
    if not isinstance(verdict["reasoning"], str):
        raise RowError("reasoning_form", f"reasoning is {type(verdict['reasoning']).__name__}")
    regions, reasoning = None, verdict["reasoning"].strip()
    if "edit_region" in keys:
        regions, numbers = read_regions(verdict["edit_region"], tolerance, fixer)
        reasoning = renumbered(reasoning, numbers, fixer)
    scores = read_scores(verdict["score"], given, wanted, fixer)
    if regions is not None or task == "pq":
        failed = failed_checks(Verdict(task, regions, reasoning, list(scores)))
        if failed:
            raise RowError("reasoning_form", f"it fails {', '.join(failed)}")
    return {"edit_region": regions, "score": scores, "reasoning": reasoning}


def names_regions(keys: Iterable[str]) -> bool:
    return bool(difflib.get_close_matches("edit_region", [key.lower() for key in keys], n=1, cutoff=0.7))
