"""`python -m rewards_fn score`: the rewards of every line of a file, and why a verdict is not valid."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from tqdm import tqdm

from rewards_fn.load import Reward, Selected, required_columns, select_rewards
from spatial_edit_reward import Task, failed_checks, valid_box
from spatial_edit_reward.boxes import BOX_SCALE, finite_number
from spatial_edit_reward.errors import first_error
from spatial_edit_reward.parser import Completion, completion_text, parse_or_reason
from spatial_edit_reward.schema import DEFAULT_SCORE_RANGE, ScoreRange

CHUNK = 500


def _check_region(region: Any) -> Any:
    if valid_box(region) is None:
        raise ValueError(f"bbox_2d must be four numbers in 0..{BOX_SCALE} with x1 < x2 and y1 < y2")
    return region


class Reference(BaseModel):
    """A reference whose scores lie within the validation context's `score_range`, 0..25 by default."""

    edit_region: list[Annotated[Any, AfterValidator(_check_region)]] | None
    score: Annotated[list[Any], Field(min_length=2, max_length=2)]

    @field_validator("score")
    @classmethod
    def _check_range(cls, scores: list[Any], info: ValidationInfo) -> list[Any]:
        low, high = (info.context or {}).get("score_range", DEFAULT_SCORE_RANGE)
        numbers = [finite_number(score) for score in scores]
        if not all(number is not None and low <= number <= high for number in numbers):
            raise ValueError(f"must be two numbers in {low:g}..{high:g}, the score range")
        return scores


class Row(BaseModel):
    """What a line must hold; other keys pass through."""

    model_config = ConfigDict(strict=True)
    task: Task
    completion: str | list[dict[str, Any]]
    reference: Reference


def read_rows(lines: Iterable[str], name: str, score_range: ScoreRange) -> Iterator[dict[str, Any]]:
    """The rows of JSON `lines`, blank ones skipped. Raises ValueError naming `name`, the line and what is wrong with it."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.removeprefix("\ufeff"))  # a byte order mark
            Row.model_validate(row, context={"score_range": score_range})
        except ValidationError as error:
            key, message = first_error(error)
            raise ValueError(f"{name}, line {number}: {key + ': ' if key else ''}{message}") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name}, line {number}: not JSON: {error}") from None
        yield row


def parse_rewards(
    text: str, columns: Collection[str], score_range: ScoreRange, weights: Sequence[float] | None = None
) -> Selected:
    """The rewards of `--rewards`: names with commas between, or a JSON list as in a recipe's `reward_funcs`.

    Raises ValueError for an unknown one, for one that needs what `columns` do not give, such as images or token ids, and
    for weights of another number.
    """
    entries = json.loads(text) if text.lstrip().startswith("[") else [name.strip() for name in text.split(",")]
    selected = select_rewards(entries, weights, columns, score_range)
    for name, reason in selected.left_out.items():
        raise ValueError(f"reward {name!r} {reason}, which the file does not hold")
    return selected


def why_not_valid(completion: Completion, task: Task, score_range: ScoreRange) -> str | None:
    """The parser's message or the names of the failed checks; None for a valid verdict."""
    verdict = parse_or_reason(completion_text(completion), task)
    return verdict if isinstance(verdict, str) else ", ".join(failed_checks(verdict, score_range)) or None


def scored(
    rows: Iterable[dict[str, Any]], rewards: Mapping[str, Reward], score_range: ScoreRange = DEFAULT_SCORE_RANGE
) -> Iterator[dict[str, Any]]:
    """Each row with its `rewards` {name: 0..1 or None} and, where its verdict is not valid, `why`."""
    keys = {"reference", "task"}.union(*map(required_columns, rewards.values())) - {"prompts", "completions"}
    stream = iter(rows)
    while chunk := list(itertools.islice(stream, CHUNK)):
        columns: dict[str, list[Any]] = {key: [row.get(key) for row in chunk] for key in keys}
        columns |= {"completions": [row["completion"] for row in chunk], "prompts": [""] * len(chunk)}
        values = {name: reward(**columns) for name, reward in rewards.items()}
        for i, row in enumerate(chunk):
            reason = why_not_valid(row["completion"], row["task"], score_range)
            earned = {name: column[i] for name, column in values.items()}
            yield {**row, "rewards": earned, **({"why": reason} if reason else {})}


def summary(values: Mapping[str, list[float]], rows: int, invalid: int) -> str:
    """A table of each reward's rows, mean, and shares at 0 and at 1. `values`: those that are not None."""
    width = max(len(name) for name in values)
    lines = [f"{rows} rows, {rows - invalid} valid", f"{'reward':<{width}}  rows     mean    at 0    at 1"]
    for name, column in values.items():
        count = len(column)
        if not count:
            lines.append(f"{name:<{width}}  {0:>6}  does not apply to any row")
            continue
        mean, low, high = (sum(v) / count for v in (column, [v == 0 for v in column], [v == 1 for v in column]))
        lines.append(f"{name:<{width}}  {count:>6}  {mean:.4f}  {low:6.1%}  {high:6.1%}")
    return "\n".join(lines)


def score_file(file: str, names: str, score_range: ScoreRange = DEFAULT_SCORE_RANGE) -> None:
    """Writes the scored rows of `file` ("-": stdin) to stdout and the summary to stderr; exits with one line on bad input."""
    try:
        with sys.stdin if file == "-" else open(file, encoding="utf-8") as lines:
            rows = read_rows(lines, file, score_range)
            first = list(itertools.islice(rows, 1))
            keys = {"prompts", "completions", "reference", "task"}.union(*first)
            selected = parse_rewards(names, keys, score_range)
            named = [entry if isinstance(entry, str) else next(iter(entry)) for entry in selected.entries]
            rewards = dict(zip(named, selected.rewards, strict=True))
            if len(rewards) < len(named):
                raise ValueError(f"--rewards {names}: a reward is named twice")
            values: dict[str, list[float]] = {name: [] for name in rewards}
            count = invalid = 0
            results = scored(itertools.chain(first, rows), rewards, score_range)
            for row in tqdm(results, unit="row", desc="score", file=sys.stderr):
                # Half of a surrogate pair, which JSON can hold and UTF-8 cannot, stays escaped.
                print(json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace").decode())
                count, invalid = count + 1, invalid + ("why" in row)
                for name, value in row["rewards"].items():
                    if value is not None:
                        values[name].append(value)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(summary(values, count, invalid), file=sys.stderr)
