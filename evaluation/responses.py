"""A file of responses as the store wrote it: what was asked, what came back, and the scores that can be read in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.requests import Name
from spatial_edit_reward import ParseFailure, Spec, repair
from spatial_edit_reward.checks import valid_scores
from spatial_edit_reward.errors import UserError, one_line
from spatial_edit_reward.inference.store import read_header, read_responses
from spatial_edit_reward.parser import parse_or_none

Line = Mapping[str, Any]
Pair = tuple[float, float]


@dataclass(frozen=True)
class Responses:
    """`header`: which model was asked about which rows; `lines`: the responses by key and sample."""

    header: dict[str, Any]
    spec: Spec
    lines: Mapping[Name, Line]

    def of(self, key: str | None) -> list[Line | None]:
        """The responses to a request, one for each sample; None for one that is not there."""
        return [self.lines.get((key, number)) if key else None for number in range(self.header["samples"])]

    def first_lines(self) -> list[tuple[Line, Line]]:
        """(row, its first response) of every held-out row that has one."""
        pairs = [(row, self.of(row["key"])[0]) for row in self.header["rows"]]
        return [(row, line) for row, line in pairs if line is not None]


def load_responses(file: Path) -> Responses:
    """The responses in `file`. Raises UserError where it is no such file."""
    header = read_header(file)
    try:
        return Responses(header, Spec.model_validate(header["spec"]), read_responses(file))
    except (KeyError, ValueError) as error:
        raise UserError(f"{file}: not a whole file of responses: {one_line(error)}") from None


def readable_scores(line: Line, spec: Spec, expected: bool = False) -> Pair | None:
    """The two scores of a verdict, repaired where that invents nothing; None: unparsed, or a score out of range.

    `expected`: the ones read from the score tokens' probabilities instead, where the verdict's own are readable.
    """
    try:
        scores = valid_scores(repair(line["text"], line["task"]).verdict, spec.score_range)
    except ParseFailure:
        return None
    if expected and scores is not None and line.get("expected"):
        return float(line["expected"][0]), float(line["expected"][1])
    return scores


def verdict_rates(responses: Responses) -> dict[str, Any]:
    """Over all responses in the file: how many, the shares unparsed, read only after a repair, and truncated, and tokens.

    Unparsed is a verdict without two scores in range; it counts as wrong.
    """
    lines = list(responses.lines.values())
    unparsed = [readable_scores(line, responses.spec) is None for line in lines]
    strict = [parse_or_none(line["text"], line["task"]) is not None for line in lines]
    repaired = [not (bad or valid) for bad, valid in zip(unparsed, strict, strict=True)]

    def share(values: Sequence[bool]) -> float | None:
        return float(np.mean(values)) if values else None

    return {
        "verdicts": len(lines),
        "unparsed_rate": share(unparsed),
        "repaired_rate": share(repaired),
        "truncated_rate": share([bool(line["truncated"]) for line in lines]),
        "prompt_tokens": sum(line.get("prompt_tokens", 0) for line in lines),
        "completion_tokens": sum(line.get("completion_tokens", 0) for line in lines),
    }


def read_completions(file: Path, rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[bool]]:
    """(completions, truncated) of the canonical `rows`, in their order. Raises UserError where the file lacks one."""
    lines = {row["id"]: line for row, line in load_responses(file).first_lines()}
    missing = [row["id"] for row in rows if row["id"] not in lines]
    if missing:
        raise UserError(f"{file}: {len(missing)} of {len(rows)} verdicts missing, {missing[0]} first: run 'make eval'")
    return [lines[row["id"]]["text"] for row in rows], [lines[row["id"]]["truncated"] for row in rows]
