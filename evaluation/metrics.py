"""Held-out metrics, each a ratio of two sums over groups, with bootstrap intervals that resample groups, not rows."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from rewards_fn import RULES, load_rewards, weighted_mean
from rewards_fn.load import Reward, apply_rewards, reward_names
from spatial_edit_reward import Spec, aggregate
from spatial_edit_reward.checks import valid_scores
from spatial_edit_reward.parser import parse_or_none

METRICS = (
    "valid",
    "box_iou",
    "empty_region",
    "score_agreement",
    "score_mae",
    "reward",
    "ranking_accuracy",
    "tie_rate",
    "truncated",
)
# True aggregates nearer than this are not a ranking question.
MINIMUM_GAP = 0.05
TIED = 1e-9


@dataclass(frozen=True)
class GroupSums:
    """A metric as numerator and denominator per group, float arrays in one group order for all models."""

    numerator: np.ndarray
    denominator: np.ndarray

    @property
    def mean(self) -> float:
        total = self.denominator.sum()
        return float(self.numerator.sum() / total) if total else float("nan")


def score_rows(
    rows: Sequence[Mapping[str, Any]],
    completions: Sequence[str],
    rewards: Sequence[Reward],
    weights: Sequence[float],
    spec: Spec,
    images: Sequence[Any] | None = None,
) -> list[dict[str, Any]]:
    """Each row's figures: RULES and other rewards by name, the weighted mean, the predicted scores (None if not usable).

    `images`: of each row, for rewards that need them; a column that is decoded as it is read.
    """
    columns: dict[str, Sequence[Any]] = {
        name: [row.get(name) for row in rows] for name in ("id", "task", "instruction", "reference")
    }
    if images is not None:
        columns["images"] = images
    rules = apply_rewards(load_rewards(list(RULES), spec.score_range), completions, columns)
    by_name = dict(zip(RULES, rules, strict=True))
    weighted = apply_rewards(rewards, completions, columns)
    by_name |= {name: column for name, column in zip(reward_names(rewards), weighted, strict=True) if name not in RULES}
    scored = []
    for i, (row, completion) in enumerate(zip(rows, completions, strict=True)):
        verdict = parse_or_none(completion, row["task"])
        values: dict[str, Any] = {name: column[i] for name, column in by_name.items()}
        values["reward"] = weighted_mean([column[i] for column in weighted], weights)
        values["scores"] = None if verdict is None else valid_scores(verdict, spec.score_range)
        scored.append(values)
    return scored


def other_rewards(scored: Mapping[str, Any]) -> list[str]:
    """The rewards among a row's figures that are no metric under another name: a mean over the rows where they apply."""
    return [name for name in scored if name not in (*METRICS, "format", "scores")]


def row_parts(row: Mapping[str, Any], scored: Mapping[str, Any], truncated: bool) -> dict[str, tuple[float, float]]:
    """(numerator, denominator) that one row adds to each metric that is a mean over rows."""
    valid = scored["format"] == 1.0
    parts = {
        "valid": (float(valid), 1.0),
        "score_agreement": (scored["score_agreement"], 1.0),
        "truncated": (float(truncated), 1.0),
    }
    parts |= {name: (scored[name], 1.0) for name in ("reward", *other_rewards(scored)) if scored[name] is not None}
    if row["task"] == "sc" and row["reference"]["edit_region"] is not None:
        parts["box_iou" if row["reference"]["edit_region"] else "empty_region"] = (scored["box_iou"], 1.0)
    if valid:
        errors = [abs(p - t) for p, t in zip(scored["scores"], row["reference"]["score"], strict=True)]
        parts["score_mae"] = (sum(errors) / 2, 1.0)
    return parts


def ranking_parts(candidates: Sequence[tuple[float, float | None]]) -> dict[str, tuple[float, float]]:
    """(numerator, denominator) that one group adds to ranking_accuracy and tie_rate.

    `candidates`: (true R, predicted R or None) of each. Counted are pairs whose true R differ by MINIMUM_GAP or more; right
    is the same order, and a tie or a missing prediction is wrong.
    """
    right = tied = pairs = 0
    for (true_a, a), (true_b, b) in combinations(candidates, 2):
        if abs(true_a - true_b) < MINIMUM_GAP - TIED:
            continue
        pairs += 1
        if a is None or b is None:
            continue
        if abs(a - b) < TIED:
            tied += 1
        else:
            right += (a > b) == (true_a > true_b)
    return {"ranking_accuracy": (float(right), float(pairs)), "tie_rate": (float(tied), float(pairs))}


def candidates_of(
    rows: Sequence[Mapping[str, Any]], scored: Sequence[Mapping[str, Any]], spec: Spec
) -> list[tuple[float, float | None]]:
    """(true R, predicted R) of every candidate among a group's rows: its `sc` and `pq` row share the id up to the task."""
    pairs: dict[str, dict[str, tuple[Any, Any]]] = defaultdict(dict)
    for row, values in zip(rows, scored, strict=True):
        pairs[row["id"].removesuffix(f"-{row['task']}")][row["task"]] = (row["reference"]["score"], values["scores"])
    result: list[tuple[float, float | None]] = []
    for pair in pairs.values():
        if set(pair) == {"sc", "pq"}:
            (true_sc, sc), (true_pq, pq) = pair["sc"], pair["pq"]
            predicted = None if sc is None or pq is None else aggregate(sc, pq, spec)
            result.append((aggregate(true_sc, true_pq, spec), predicted))
    return result


def group_sums(
    rows: Sequence[Mapping[str, Any]], scored: Sequence[Mapping[str, Any]], truncated: Sequence[bool], spec: Spec
) -> dict[str, GroupSums]:
    """Every metric of one model over the held-out rows, by group: METRICS, then the rewards that are none of them."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        members[row["group"] or row["id"]].append(i)
    names = [*METRICS, *(other_rewards(scored[0]) if scored else ())]
    table = {name: np.zeros((len(members), 2)) for name in names}
    for group, indices in enumerate(members.values()):
        for i in indices:
            for name, part in row_parts(rows[i], scored[i], truncated[i]).items():
                table[name][group] += part
        candidates = candidates_of([rows[i] for i in indices], [scored[i] for i in indices], spec)
        for name, part in ranking_parts(candidates).items():
            table[name][group] += part
    return {name: GroupSums(sums[:, 0], sums[:, 1]) for name, sums in table.items()}


def _ratio(numerator: np.ndarray, denominator: np.ndarray, axis: int) -> np.ndarray:
    total = denominator.sum(axis=axis)
    return np.divide(numerator.sum(axis=axis), total, out=np.full(np.shape(total), np.nan), where=total > 0)


def interval(sums: GroupSums, samples: int, seed: int, minus: GroupSums | None = None) -> dict[str, float | None]:
    """Mean and 95 % percentile bootstrap interval of a metric, or of its paired difference to `minus`; None: undefined."""

    def difference(*parts: np.ndarray, axis: int) -> np.ndarray:
        first = _ratio(parts[0], parts[1], axis)
        return first if minus is None else first - _ratio(parts[2], parts[3], axis)

    data: tuple[np.ndarray, ...] = (sums.numerator, sums.denominator)
    mean = sums.mean
    if minus is not None:
        data = (*data, minus.numerator, minus.denominator)
        mean -= minus.mean
    if np.isnan(mean) or len(sums.numerator) < 2:  # a single group cannot be resampled
        return {"mean": None if np.isnan(mean) else mean, "low": None, "high": None}
    from scipy.stats import DegenerateDataWarning, bootstrap  # a second to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # all groups alike: an interval of no width
        resampled = bootstrap(
            data,
            difference,
            n_resamples=samples,
            paired=True,
            vectorized=True,
            method="percentile",
            rng=seed,
            batch=200,
        )
    # A resample without any valid row has no mean: quantiles over the others.
    low, high = np.nanquantile(resampled.bootstrap_distribution, [0.025, 0.975])
    return {"mean": mean, "low": float(low), "high": float(high)}
