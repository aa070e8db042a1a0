"""What the official evaluations have in common, errors included: scores out of a completion, the overall score, the order.

SpatialReward's evaluation (its repository at aa47b2e) scores MER-Bench, EditReward-Bench and MMRB2; the rule of each benchmark
is in its own module, and `strict.py` has none of the errors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from spatial_edit_reward.boxes import finite_number
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.schema import DEFAULT_SCORE_RANGE, ScoreRange

Rows = Sequence[Mapping[str, Any]]
# The models whose official headline figures arXiv 2602.07458 and secondary sources give.
PAPER_MODELS = (
    *("GPT-4.1", "GPT-5", "Gemini-2.5-Pro", "Gemini-3.0-Flash"),
    *("EditScore-8B", "EditReward", "SpatialReward-8B"),
)
# What a completion without scores counts as: the middle of 0..25, twice.
UNREADABLE = (12.5, 12.5)
NUMBER = r"[-+]?\d*\.?\d+"
SCORES_IN_TEXT = re.compile(rf'"score"\s*:\s*\[({NUMBER}),\s*({NUMBER})(?:,\s*{NUMBER})*\]')


def lenient_scores(text: str, score_range: ScoreRange = DEFAULT_SCORE_RANGE) -> tuple[float, float]:
    """The two scores that the official evaluation reads out of a completion; UNREADABLE where it reads none.

    Its rules know scores of 0..25 alone: those of another `score_range` are brought to it. Negative ones, at which it would
    break off, are UNREADABLE too.

    >>> lenient_scores('Sure! {"score": [20, 10.5]}'), lenient_scores("no")
    ((20.0, 10.5), (12.5, 12.5))
    >>> lenient_scores('{"score": [10, 2]}', score_range=(0, 10))
    (25.0, 5.0)
    """
    pair = _read_scores(text)
    if pair is None:
        return UNREADABLE
    low, high = score_range
    if (low, high) != DEFAULT_SCORE_RANGE:
        top = DEFAULT_SCORE_RANGE[1]
        pair = (pair[0] - low) / (high - low) * top, (pair[1] - low) / (high - low) * top
    return pair if all(math.isfinite(score) and score >= 0 for score in pair) else UNREADABLE


def _read_scores(text: str) -> tuple[float, float] | None:
    """Two scores as they are written; None where there are none."""
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    first, last = text.find("{"), text.rfind("}")
    if first < 0 or last < 0:
        return None
    content = text[first : last + 1]
    try:
        scores = json.loads(content)["score"]
        scores = scores if isinstance(scores, list) else [scores]
        scores = scores * 2 if len(scores) == 1 else scores
        return float(scores[0]), float(scores[1])
    except json.JSONDecodeError:
        match = SCORES_IN_TEXT.search(content)
        return (float(match[1]), float(match[2])) if match else None
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError):
        return None


def combined(sc: Sequence[float], pq: Sequence[float], aggregation: str) -> float:
    """The overall score, 0..10, in the official order of operations: "weighted" (0.6, 0.4, 0.5, 0.5, power 0.8), min or mean.

    Scores of 0..25 are divided by 2.5 first. `mean` is the square root of the product of the two means.
    """
    if aggregation == "weighted":
        s1, s2, s3, s4 = (score / 2.5 for score in (*sc, *pq))
        return float((0.6 * s1 + 0.4 * s2) ** 0.8 * (0.5 * s3 + 0.5 * s4) ** (1 - 0.8))
    if aggregation == "min":
        return math.sqrt(min(sc) / 2.5 * (min(pq) / 2.5))
    return math.sqrt(sum(sc) / 2 / 2.5 * (sum(pq) / 2 / 2.5))


def falling(scores: Sequence[float]) -> list[int]:
    """Indices by falling score, ties in stored order."""
    return sorted(range(len(scores)), key=lambda index: scores[index], reverse=True)


def mean(values: Iterable[float]) -> float | None:
    """The plain mean; None of nothing."""
    listed = list(values)
    return float(np.mean(listed)) if listed else None


def require_key(row: Any, key: str, where: str) -> Any:
    """`row[key]`. Raises UserError where `row` is no object with that key."""
    if not isinstance(row, Mapping) or key not in row:
        raise UserError(f"{where}: no {key!r} there")
    return row[key]


def number(value: Any) -> float | None:
    """A score of an official result file: NaN and infinities as they are, which the official rules compare; else None."""
    return value if isinstance(value, float) else finite_number(value)


def result_score(results: Mapping[str, Any], key: str, dimension: str, file: Any) -> float | None:
    """The score of `dimension` in results of the form key -> {"scores": {dimension: score}}; None where there is none."""
    if key not in results:
        return None
    scores = require_key(results[key], "scores", f"{file}: {key}")
    return number(scores.get(dimension)) if isinstance(scores, Mapping) else None


def require_rows(rows: Rows | None, bench: str) -> Rows:
    """`rows`. Raises UserError where the benchmark's rows were not given beside its official results."""
    if rows is None:
        raise UserError(f"{bench}: the benchmark's rows are needed beside the results: --benchmark-rows FILE.jsonl")
    return rows
