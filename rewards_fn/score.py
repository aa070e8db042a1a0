"""`python -m rewards_fn score`: the rewards of every line of a file, and why a verdict is not valid."""

from __future__ import annotations

import inspect
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator
from tqdm import tqdm

from rewards_fn.load import Reward, load_rewards
from spatial_edit_reward import Task
from spatial_edit_reward.checks import failed_checks
from spatial_edit_reward.errors import first_error
from spatial_edit_reward.parser import Completion, completion_text, parse_or_reason

CHUNK = 500
# What a line gives a reward function.
COLUMNS = ("prompts", "completions", "reference", "task")


class Region(BaseModel):
    bbox_2d: Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)]

    @model_validator(mode="after")
    def corners_in_order(self) -> Region:
        if not (self.bbox_2d[0] < self.bbox_2d[2] and self.bbox_2d[1] < self.bbox_2d[3]):
            raise ValueError("bbox_2d must have x1 < x2 and y1 < y2")
        return self


class Reference(BaseModel):
    edit_region: list[Region] | None
    score: Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]


class Row(BaseModel):
    """What a line must hold; other keys pass through."""

    model_config = ConfigDict(strict=True)
    task: Task
    completion: str | list[dict[str, Any]]
    reference: Reference


def read_rows(lines: Iterable[str], name: str) -> Iterator[dict[str, Any]]:
    """The rows of JSON `lines`, blank ones skipped. Raises ValueError naming `name`, the line and what is wrong with it."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            Row.model_validate(row)
        except ValidationError as error:
            key, message = first_error(error)
            raise ValueError(f"{name}, line {number}: {key + ': ' if key else ''}{message}") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name}, line {number}: not JSON: {error}") from None
        yield row


def rewards_by_name(text: str) -> dict[str, Reward]:
    """The rewards of `--rewards`: names with commas between, or a JSON list as in a recipe's `reward_funcs`.

    Raises ValueError for an unknown one, and for one that needs what a file of verdicts lacks: images or token ids.
    """
    entries = json.loads(text) if text.lstrip().startswith("[") else [name.strip() for name in text.split(",")]
    rewards: dict[str, Reward] = {}
    for entry, reward in zip(entries, load_rewards(entries), strict=True):
        name = entry if isinstance(entry, str) else next(iter(entry))
        parameters = inspect.signature(reward).parameters.values()
        needed = [
            p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        ]
        lacking = [parameter for parameter in needed if parameter not in COLUMNS]
        if lacking:
            raise ValueError(f"reward {name!r} needs {', '.join(lacking)}, which a file of verdicts does not hold")
        if name in rewards:
            raise ValueError(f"reward {name!r} is named twice")
        rewards[name] = reward
    return rewards


def why(completion: Completion, task: Task) -> str | None:
    """Why a completion is not a valid verdict: the parser's message or the names of the failed checks; None if it is valid."""
    found = parse_or_reason(completion_text(completion), task)
    return found if isinstance(found, str) else ", ".join(failed_checks(found)) or None


def scored(rows: Iterable[dict[str, Any]], rewards: Mapping[str, Reward]) -> Iterator[dict[str, Any]]:
    """Each row with its `rewards` {name: 0..1 or None} and, where its verdict is not valid, `why`."""
    stream = iter(rows)
    while chunk := list(itertools.islice(stream, CHUNK)):
        columns: dict[str, list[Any]] = {key: [row[key] for row in chunk] for key in ("reference", "task")}
        columns |= {"completions": [row["completion"] for row in chunk], "prompts": [""] * len(chunk)}
        values = {name: reward(**columns) for name, reward in rewards.items()}
        for place, row in enumerate(chunk):
            reason = why(row["completion"], row["task"])
            found = {name: column[place] for name, column in values.items()}
            yield {**row, "rewards": found, **({"why": reason} if reason else {})}


def summary(kept: Mapping[str, list[float]], rows: int, invalid: int) -> str:
    """A table of each reward's rows, mean, and shares at 0 and at 1."""
    width = max(len(name) for name in kept)
    lines = [f"{rows} rows, {rows - invalid} valid", f"{'reward':<{width}}  rows     mean    at 0    at 1"]
    for name, values in kept.items():
        count = len(values)
        if not count:
            lines.append(f"{name:<{width}}  {0:>6}  does not apply to any row")
            continue
        mean, low, high = (sum(v) / count for v in (values, [v == 0 for v in values], [v == 1 for v in values]))
        lines.append(f"{name:<{width}}  {count:>6}  {mean:.4f}  {low:6.1%}  {high:6.1%}")
    return "\n".join(lines)


def score_file(file: str, names: str) -> None:
    """Writes the scored rows of `file` ("-": stdin) to stdout and the summary to stderr; exits with one line on bad input."""
    try:
        rewards = rewards_by_name(names)
        kept: dict[str, list[float]] = {name: [] for name in rewards}
        count = invalid = 0
        with sys.stdin if file == "-" else open(file, encoding="utf-8") as lines:
            for row in tqdm(scored(read_rows(lines, file), rewards), unit="row", desc="score", file=sys.stderr):
                print(json.dumps(row, ensure_ascii=False))
                count, invalid = count + 1, invalid + ("why" in row)
                for name, value in row["rewards"].items():
                    if value is not None:
                        kept[name].append(value)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(summary(kept, count, invalid), file=sys.stderr)
