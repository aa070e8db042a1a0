"""Two parsers: `parse`, strict, for rewards, and `repair`, lenient, for use. Neither makes up a score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

import json_repair

from spatial_edit_reward.schema import KEYS, Task, Verdict

Completion = str | Sequence[Mapping[str, Any]]


class ParseFailure(ValueError):  # noqa: N818 - the name of the contract
    """The completion is no verdict; the message says why."""


class RepeatedKey(ParseFailure):
    """An object has a key twice: which of the two values is meant cannot be known."""


@dataclass(frozen=True)
class Repaired:
    """A verdict got by `repair`; `changed`: the completion had to be repaired (`parse` would have refused it)."""

    verdict: Verdict
    changed: bool


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise RepeatedKey("a key is given twice")
    return keys


def _no_constant(name: str) -> NoReturn:
    raise ParseFailure(f"{name} is no JSON number")


# JSON without repeated keys, NaN and Infinity; raises ParseFailure for these, and what `json` raises for the rest.
DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_no_constant)


def _verdict(value: Any, task: Task) -> Verdict:
    """The JSON `value` as a verdict, its keys, their order and the three container types checked."""
    if not isinstance(value, dict):
        raise ParseFailure("not a JSON object")
    if tuple(value) != KEYS[task]:
        raise ParseFailure(f"keys must be {', '.join(KEYS[task])} in this order")
    for key, kind in (("edit_region", list), ("reasoning", str), ("score", list)):
        if key in value and not isinstance(value[key], kind):
            raise ParseFailure(f"{key} must be a {'string' if kind is str else 'list'}")
    return Verdict(task, value.get("edit_region"), value["reasoning"], value["score"])


def parse(text: str, task: Task) -> Verdict:
    """The verdict that `text` is: exactly one JSON object with the task's keys in order, white space around it allowed.

    Raises ParseFailure for anything else: a fence, text around it, a key given twice at any depth, NaN or Infinity,
    nesting or integers beyond what Python reads. Ids, boxes and scores are kept as they are: see `failed_checks`.

    >>> parse('{"reasoning": "No visible artifacts.", "score": [20, 11]}', "pq").score
    [20, 11]
    >>> parse('The verdict: {"reasoning": "No visible artifacts.", "score": [20, 11]}', "pq")
    Traceback (most recent call last):
    spatial_edit_reward.parser.ParseFailure: no JSON: Expecting value at character 0
    """
    text = text.strip()
    try:
        value, end = DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        raise ParseFailure(f"no JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise ParseFailure("nested too deep") from None
    except ParseFailure:
        raise
    except ValueError as error:  # an integer of more digits than Python converts
        raise ParseFailure(str(error)) from None
    if end != len(text):
        raise ParseFailure("text after the JSON object")
    return _verdict(value, task)


def repair(text: str, task: Task) -> Repaired:
    """The verdict in `text` after repairing its JSON (fences, prose around it, a missing bracket), keys in any order.

    Raises ParseFailure where the keys or scores are not all there: a cut-off verdict is not filled up.

    >>> repaired = repair('Sure! {"score": [20, 11], "reasoning": "No visible artifacts."}', "pq")
    >>> repaired.changed, repaired.verdict.score
    (True, [20, 11])
    """
    try:
        return Repaired(parse(text, task), changed=False)
    except ParseFailure:
        pass
    try:
        value = json_repair.loads(text)
    except (RecursionError, ValueError) as error:
        raise ParseFailure(f"beyond repair: {error}") from None
    if isinstance(value, list):  # prose with brackets of its own around the object
        value = next((part for part in value if isinstance(part, dict) and set(part) == set(KEYS[task])), None)
    if not isinstance(value, dict) or set(value) != set(KEYS[task]):
        raise ParseFailure(f"beyond repair: no object with the keys {', '.join(KEYS[task])}")
    verdict = _verdict({key: value[key] for key in KEYS[task]}, task)
    if len(verdict.score) != 2:
        raise ParseFailure("beyond repair: the two scores are not there")
    return Repaired(verdict, changed=True)


def completion_text(completion: Completion) -> str:
    """The text of a completion: itself, or the contents of a TRL message list (strings or typed parts) joined.

    What is no text (a tool call, a None) counts as none, so that a reward never raises.
    """
    if isinstance(completion, str):
        return completion
    parts: list[Any] = []
    for message in completion if isinstance(completion, Sequence) else ():
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, str):
            parts.append(content)
        elif isinstance(content, Sequence):
            parts += [part.get("text") for part in content if isinstance(part, Mapping)]
    return "".join(part for part in parts if isinstance(part, str))


# Three rewards look at the same completion one after another: parse it once. Sized for a large generation batch.
@lru_cache(maxsize=4096)
def parse_or_reason(text: str, task: Task) -> Verdict | str:
    """The text's verdict by the strict parser, or why it is none. The verdict is shared: do not change it."""
    try:
        return parse(text, task)
    except ParseFailure as failure:
        return str(failure)


def parse_or_none(completion: Completion, task: Task) -> Verdict | None:
    """The completion's verdict; None where it is unparsed. The verdict is shared: do not change it."""
    verdict = parse_or_reason(completion_text(completion), task)
    return None if isinstance(verdict, str) else verdict
