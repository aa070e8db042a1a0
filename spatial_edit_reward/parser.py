"""Two parsers: `parse`, strict, for rewards, and `repair`, lenient, for use. Neither makes up a score."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

import json_repair

from spatial_edit_reward.schema import KEYS, Task, Verdict

Completion = str | Sequence[Mapping[str, Any]]
# What a model thinks: up to </think>, which may have no opening tag, and all behind a <think> that is never closed.
THOUGHTS = re.compile(r"\A(?:(?!<think>).)*</think>|<think>(?:.*?</think>|.*)", re.DOTALL)
NUMBER_AT_END = re.compile(r"(?<![\w.])-?[0-9][0-9.eE+-]*\Z")
MAX_LENGTH = 2**14  # characters that are repaired: json_repair can take half a minute for so many
OBJECT = re.compile(r'\{\s*"')


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
# The same, with line ends and tabs within strings as they are.
LENIENT_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_no_constant, strict=False)


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


def complete_objects(text: str) -> Iterator[tuple[dict[str, Any], int, int]]:
    """(object, where it starts, where it ends) of every outermost JSON object in `text`, in order; broken ones left out."""
    opening = OBJECT.search(text)
    while opening:
        start = opening.start()
        try:
            value, end = LENIENT_DECODER.raw_decode(text, start)
            yield value, start, end
        except json.JSONDecodeError as error:
            end = max(error.pos, start + 1)  # what lies before is inside the broken one
        except RecursionError:
            return
        except ValueError:  # a key given twice, NaN, an integer of more digits than Python converts
            end = start + 1
        opening = OBJECT.search(text, end)


def _task_of(keys: Collection[str]) -> str | None:
    """The task whose verdict has these `keys`, and maybe others; None where no verdict has them."""
    return next((task for task in ("sc", "pq") if set(KEYS[task]) <= set(keys)), None)


def repaired_objects(text: str) -> list[dict[str, Any]]:
    """The objects that json_repair makes of `text`, in order. A number that touches its end may be cut off: it is left out.

    Raises ValueError or RecursionError for what is beyond repair.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"more than {MAX_LENGTH:,} characters")
    value = json_repair.loads(NUMBER_AT_END.sub("", text))
    if isinstance(value, str):  # JSON written as a JSON string
        value = json_repair.loads(value)
    return [part for part in (value if isinstance(value, list) else [value]) if isinstance(part, dict) and part]


def repair(text: str, task: Task) -> Repaired:
    """The last complete verdict in `text`, its JSON repaired: fences, prose and thoughts around it, a missing bracket.

    Keys may come in any order and case, and others beside them, which are left out. What a model thinks before `</think>` is
    no verdict. Raises ParseFailure where the keys or scores are not all there: a cut-off verdict is not filled up.

    >>> repaired = repair('Sure! {"score": [20, 11], "reasoning": "No visible artifacts.", "sure": true}', "pq")
    >>> repaired.changed, repaired.verdict.score
    (True, [20, 11])
    """
    try:
        return Repaired(parse(text, task), changed=False)
    except ParseFailure:
        pass
    rest = text = THOUGHTS.sub("", text)[-MAX_LENGTH:]
    objects: list[dict[str, Any]] = []
    for value, _, end in complete_objects(text):
        if _task_of(value) == task:
            objects.append(value)
            rest = text[end:]
    try:
        objects += repaired_objects(rest) if "{" in rest or not objects else []
    except (RecursionError, ValueError) as error:
        if not objects:
            raise ParseFailure(f"beyond repair: {error}") from None
    reason = f"no object with the keys {', '.join(KEYS[task])}"
    for value in reversed(objects):
        value = {key.lower(): part for key, part in value.items()}
        if _task_of(value) != task:
            continue
        try:
            verdict = _verdict({key: value[key] for key in KEYS[task]}, task)
        except ParseFailure as failure:
            reason = str(failure)
            continue
        if len(verdict.score) == 2:
            return Repaired(verdict, changed=True)
        reason = "the two scores are not there"
    raise ParseFailure(f"beyond repair: {reason}")


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
