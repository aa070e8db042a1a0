"""The shape of a verdict: its tasks, keys, tags, and how a reference is written out as a completion."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Task = Literal["sc", "pq"]
TASKS: tuple[Task, ...] = ("sc", "pq")

# The lowest and the highest score, both included, in points.
ScoreRange = tuple[float, float]
DEFAULT_SCORE_RANGE: ScoreRange = (0.0, 25.0)

# The keys of a task's JSON object, in the order in which they must come.
KEYS: dict[str, tuple[str, ...]] = {"sc": ("edit_region", "reasoning", "score"), "pq": ("reasoning", "score")}

# Tags are plain text and no tokens of their own: TRL's GRPO decodes with `skip_special_tokens=True`, which would
# remove special tokens before a reward could see them.
GLOBAL_TAG = "<|global|>"
TAG = re.compile(r"<\|(?:bbox_([0-9]+)|global)\|>")
# What tokenizers of Qwen's kind take for one special token, such as <|image_pad|> and <|im_end|>; our tags are none.
SPECIAL_TOKEN = re.compile(r"<\|(?!(?:bbox_\w+|global)\|>)(\w+)\|>")
# The id that a tag of more digits stands for: no list of regions is that long, and Python would not convert 5,000 digits.
BEYOND_EVERY_LIST = 10**9


@dataclass(frozen=True)
class Verdict:
    """A parsed verdict. Everything in the lists is as the model wrote it; `failed_checks` says whether it is valid.

    `edit_region` is None for `pq`.
    """

    task: Task
    edit_region: list[Any] | None
    reasoning: str
    score: list[Any]


def plain_text(text: str) -> str:
    """`text` with spaces in each special token, so that a tokenizer reads it as the text that it is.

    In a prompt, <|image_pad|> would claim an image, and <|im_end|> end the turn.

    >>> plain_text("Remove <|image_pad|> of <|bbox_0|>.")
    'Remove <| image_pad |> of <|bbox_0|>.'
    """
    return SPECIAL_TOKEN.sub(r"<| \1 |>", text)


def cited_ids(reasoning: str) -> list[int]:
    """The ids of the `<|bbox_ID|>` tags in `reasoning`, in order, repeats kept; at most BEYOND_EVERY_LIST."""
    digits = [match.group(1) for match in TAG.finditer(reasoning)]
    return [int(number) if len(number) < 10 else BEYOND_EVERY_LIST for number in digits if number is not None]


def _number(value: float) -> float | int:
    """`value` as an int where it is whole, so that 25.0 is written 25."""
    return int(value) if float(value).is_integer() else value


def render(task: Task, reference: Mapping[str, Any]) -> str:
    """A reference written as the completion that a perfect model would give: one JSON object, keys in the task's order.

    `reference`: {"edit_region": list of {"id", "label", "bbox_2d"}, "reasoning": str, "score": [float, float]}.
    Raises ValueError where a key that the task needs is missing or null.

    >>> render("pq", {"reasoning": "No visible artifacts.", "score": [20.0, 12.5]})
    '{"reasoning": "No visible artifacts.", "score": [20, 12.5]}'
    """
    verdict: dict[str, Any] = {}
    for key in KEYS[task]:
        value = reference.get(key)
        if value is None:
            raise ValueError(f"a {task} verdict needs {key!r}, and this reference has none")
        if key == "edit_region":
            value = [{"id": r["id"], "label": r["label"], "bbox_2d": [_number(x) for x in r["bbox_2d"]]} for r in value]
        elif key == "score":
            value = [_number(x) for x in value]
        verdict[key] = value
    return json.dumps(verdict, ensure_ascii=False)
