"""The text of a public verdict -> a canonical reference: what the policy allows is fixed, anything else is a RowError."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from data.cleaning.fixer import RowError, RowFixer
from data.cleaning.regions import read_numbers, read_regions, with_keys
from spatial_edit_reward import KEYS, ParseFailure, Task, Verdict
from spatial_edit_reward.checks import failed_checks
from spatial_edit_reward.parser import DECODER, THOUGHTS, RepeatedKey, complete_objects, repaired_objects
from spatial_edit_reward.schema import TAG, ScoreRange

FENCE = re.compile(r"```\w*\s*(.*?)\s*```", re.DOTALL)


def without_wrapping(text: str, fixer: RowFixer) -> str:
    """`text` without a thinking part and without a code fence around its JSON."""
    text, thoughts = THOUGHTS.subn("", text)
    if thoughts:
        fixer.fix("think", "the answer thinks aloud first")
    fenced = FENCE.search(text)
    if fenced and "{" not in text[: fenced.start()]:
        fixer.fix("fence", "the verdict is in a code fence")
        text = f"{text[: fenced.start()]}{fenced.group(1)}{text[fenced.end() :]}"
    return text.strip()


def read_object(text: str, fixer: RowFixer) -> dict[str, Any]:
    """The JSON object of the last verdict in `text`, without thoughts, fences and prose around it."""
    text = without_wrapping(text, fixer)
    verdicts = [item for item in complete_objects(text) if names(item[0], "reasoning") and names(item[0], "score")]
    content, start, end = verdicts[-1] if verdicts else ({}, 0, 0)
    later = text.find("{", end)
    if not verdicts or (later >= 0 and '"score"' in text[later:]):  # one that is broken
        content, start, end = read_first(text, later, fixer)
    else:
        note_line_ends(text[start:end], fixer)
    if start > 0 or end < len(text):
        fixer.fix("prose", "text around the JSON object")
    if not isinstance(content, dict):
        raise RowError("unreadable_verdict", f"a JSON {type(content).__name__}, no object")
    return content


def note_line_ends(text: str, fixer: RowFixer) -> None:
    """Notes that a string in the JSON `text` holds a line end as it is. Raises RowError where the policy does not fix that."""
    try:
        DECODER.decode(text)
    except json.JSONDecodeError as error:
        fixer.fix("line_end", str(error))


def read_first(text: str, start: int, fixer: RowFixer) -> tuple[Any, int, int]:
    """(content, `start`, its end) of the JSON at `start` in `text`, repaired where the policy fixes that. Raises RowError."""
    if start < 0:
        raise RowError("unreadable_verdict", f"no JSON object in {text[:60]!r}")
    try:
        content, end = DECODER.raw_decode(text, start)
    except ParseFailure as failure:
        kind = "repeated_key" if isinstance(failure, RepeatedKey) else "unreadable_verdict"
        raise RowError(kind, str(failure)) from None
    except (ValueError, RecursionError) as error:
        content, end = repaired(text[start:], str(error), fixer), len(text)
    return content, start, end


def repaired(text: str, reason: str, fixer: RowFixer) -> dict[str, Any]:
    """`text`, no JSON for `reason`, read by json_repair. Raises RowError where that is not allowed, or gives no object."""
    try:
        objects = repaired_objects(text)
    except (ValueError, RecursionError):
        objects = []
    if not objects:
        raise RowError("unreadable_verdict", f"no JSON: {reason}")
    fixer.fix("broken_json", reason)
    return next((content for content in reversed(objects) if names(content, "score")), objects[-1])


def read_scores(value: Any, from_range: ScoreRange, to_range: ScoreRange, fixer: RowFixer) -> list[float]:
    """Two scores, checked against the source's range and rescaled to the spec's, both (lowest, highest)."""
    scores = read_numbers(value, 2, "score_string", fixer)
    if scores is None:
        raise RowError("score_shape", f"score is {str(value)[:60]}")
    (low, high), (new_low, new_high) = from_range, to_range
    if not all(low <= score <= high for score in scores):
        raise RowError("score_outside", f"score is {scores}, the source's range {low:g}..{high:g}")
    if from_range == to_range:
        return scores
    scale = (new_high - new_low) / (high - low)
    return [min(new_high, new_low + (score - low) * scale) for score in scores]


def with_new_ids(reasoning: str, new_ids: Mapping[int, int], fixer: RowFixer) -> str:
    """`reasoning` with its cites changed to the new ids; a cite of no region is taken out where the policy fixes it."""

    def new_tag(match: re.Match[str]) -> str:
        old_id = match.group(1)
        if old_id is None:
            return match.group(0)
        if len(old_id) > 9 or int(old_id) not in new_ids:
            fixer.fix("cite_without_box", f"the reasoning cites region {old_id[:9]}, which is not there")
            return ""
        return f"<|bbox_{new_ids[int(old_id)]}|>"

    return TAG.sub(new_tag, reasoning)


def check_task(content: Mapping[str, Any], task: Task, regions_known: bool) -> None:
    """Raises RowError where the verdict's keys are those of the other task."""
    if task == "pq" and "edit_region" in content and {"reasoning", "score"} <= set(content):
        raise RowError("task_disagrees", "one image, and a verdict with edit_region")
    if task == "sc" and regions_known and not names(content, "edit_region"):
        raise RowError("task_disagrees", "two images, and a verdict without edit_region")


def names(keys: Iterable[str], name: str) -> bool:
    """Whether one of `keys` is `name`, misspelt or not."""
    return bool(difflib.get_close_matches(name, [key.lower() for key in keys], n=1, cutoff=0.7))


def read_verdict(
    text: str, task: Task, regions_known: bool, from_range: ScoreRange, to_range: ScoreRange, fixer: RowFixer
) -> dict[str, Any]:
    """The reference in the verdict `text`: what it renders to is a valid verdict (`spatial_edit_reward.checks`).

    `regions_known`: False for a source without boxes, whose `sc` verdicts get the region null. `from_range`, `to_range`: the
    score range of the source and of the spec. Raises RowError with the first error that the policy does not fix.
    """
    content = read_object(text, fixer)
    check_task(content, task, regions_known)
    keys = KEYS[task] if regions_known else KEYS["pq"]
    verdict = with_keys(content, keys, "the verdict", fixer)
    if [key for key in verdict if key in content] != [key for key in keys if key in content]:
        fixer.fix("key_order", f"the keys come as {', '.join(content)}")
    if not isinstance(verdict["reasoning"], str):
        raise RowError("reasoning_form", f"reasoning is {type(verdict['reasoning']).__name__}")
    regions, reasoning = None, verdict["reasoning"].strip()
    if "edit_region" in keys:
        regions, new_ids = read_regions(verdict["edit_region"], fixer)
        reasoning = with_new_ids(reasoning, new_ids, fixer)
    scores = read_scores(verdict["score"], from_range, to_range, fixer)
    if regions is not None or task == "pq":
        failed = failed_checks(Verdict(task, regions, reasoning, list(scores)), to_range)
        if failed:
            raise RowError("reasoning_form", f"it fails {', '.join(failed)}")
    return {"edit_region": regions, "score": scores, "reasoning": reasoning}
