"""Strict figures of a ranking: ties and missing verdicts are wrong, every decided pair is in the denominator, no order helps.

Of one sample with candidates of true ranks 0 (best) upwards and scores, None where a verdict is missing or unreadable:
    pair_accuracy        pairs of different rank whose better one has the strictly higher score
    pair_accuracy_half   the same, a tie at half credit, so that a constant scorer gets 0.5; a missing score stays wrong
    exact_order          every such pair right
    top1_accuracy        the best candidate strictly above all others
    kendall_tau_b        scipy's, 0 where all scores are equal
    ndcg                 scikit-learn's, averaged over ties, gain n - rank; a constant scorer gets what chance gets
    tie_rate             any two equal scores
A sample with a missing score counts 0 in kendall_tau_b and ndcg. Figures are ratios of sums; intervals resample groups.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np

from evaluation.metrics import GroupSums, interval
from spatial_edit_reward.boxes import finite_number

FIGURES = (
    "pair_accuracy",
    "pair_accuracy_half",
    "exact_order",
    "top1_accuracy",
    "kendall_tau_b",
    "ndcg",
    "tie_rate",
)
Ratio = tuple[float, float]


@dataclass(frozen=True)
class ScoredSample:
    """One sample: true ranks (0 best, equal: people saw a tie) and scores, in one order; None: missing or unreadable.

    `complete`: every verdict was given, readable or not. `group`: samples that share it are resampled together. `extra`: what
    the official rule needs beside. Scores that are not finite are wrong like missing ones; only official rules look at them.
    """

    id: str
    ranks: tuple[int, ...]
    scores: tuple[float | None, ...]
    category: str = ""
    dimension: str = "overall"
    sources: int = 1
    group: str = ""
    complete: bool = True
    extra: Any = None

    @property
    def size(self) -> int:
        return len(self.ranks)


def all_finite(scores: Iterable[float | None]) -> bool:
    """Whether each score of an official result is there as a finite number."""
    return all(finite_number(score) is not None for score in scores)


def decided_pairs(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """(better, worse) indices of every pair that people did not call a tie."""
    pairs = combinations(range(len(ranks)), 2)
    return [(i, j) if ranks[i] < ranks[j] else (j, i) for i, j in pairs if ranks[i] != ranks[j]]


def levels_of(scores: Sequence[float | None]) -> tuple[int | None, ...]:
    """Each score's index among the different finite ones, 0 the lowest; None for others. Every figure depends on this alone."""
    numbers = [finite_number(score) for score in scores]
    levels = sorted({score for score in numbers if score is not None})
    return tuple(None if score is None else levels.index(score) for score in numbers)


# There are few orders, and thousands of samples.
@lru_cache(maxsize=2**15)
def sample_parts(ranks: tuple[int, ...], scores: tuple[float | None, ...]) -> Mapping[str, Ratio]:
    """(numerator, denominator) that a sample adds to each of FIGURES; only to tie_rate where people saw only ties."""
    known = [score for score in scores if score is not None]
    parts = {"tie_rate": (float(len(set(known)) < len(known)), 1.0)}
    pairs = decided_pairs(ranks)
    return parts | _pair_parts(pairs, scores) | _top_part(ranks, scores) | _rank_parts(ranks, known) if pairs else parts


def _pair_parts(pairs: Sequence[tuple[int, int]], scores: Sequence[float | None]) -> dict[str, Ratio]:
    right = half = 0.0
    for better, worse in pairs:
        high, low = scores[better], scores[worse]
        if high is not None and low is not None:
            right += high > low
            half += 1.0 if high > low else 0.5 if high == low else 0.0
    count = float(len(pairs))
    exact = float(right == count)
    return {"pair_accuracy": (right, count), "pair_accuracy_half": (half, count), "exact_order": (exact, 1.0)}


def _top_part(ranks: Sequence[int], scores: Sequence[float | None]) -> dict[str, Ratio]:
    """Nothing where several candidates are the best."""
    if ranks.count(min(ranks)) > 1:
        return {}
    best = ranks.index(min(ranks))
    top, others = scores[best], (*scores[:best], *scores[best + 1 :])
    return {"top1_accuracy": (float(top is not None and all(s is not None and top > s for s in others)), 1.0)}


def _rank_parts(ranks: Sequence[int], known: Sequence[float]) -> dict[str, Ratio]:
    if len(known) < len(ranks):
        return {"kendall_tau_b": (0.0, 1.0), "ndcg": (0.0, 1.0)}
    from scipy.stats import kendalltau  # seconds to import
    from sklearn.metrics import ndcg_score

    tau = float(kendalltau([-rank for rank in ranks], known).statistic) if len(set(known)) > 1 else 0.0
    return {
        "kendall_tau_b": (tau, 1.0),
        "ndcg": (float(ndcg_score([[len(ranks) - rank for rank in ranks]], [known])), 1.0),
    }


def figure_sums(samples: Iterable[ScoredSample]) -> dict[str, GroupSums]:
    """Each of FIGURES as sums per group."""
    groups: dict[str, dict[str, np.ndarray]] = defaultdict(lambda: {name: np.zeros(2) for name in FIGURES})
    for sample in samples:
        sums = groups[sample.group or sample.id]
        for name, part in sample_parts(sample.ranks, levels_of(sample.scores)).items():
            sums[name] += part
    tables = {name: np.array([sums[name] for sums in groups.values()]).reshape(-1, 2) for name in FIGURES}
    return {name: GroupSums(table[:, 0], table[:, 1]) for name, table in tables.items()}


def chance(samples: Sequence[ScoredSample]) -> dict[str, float | None]:
    """What a random order is expected to reach."""
    decided = [sample for sample in samples if decided_pairs(sample.ranks)]
    if not decided:
        return dict.fromkeys(("pair_accuracy", "exact_order", "top1_accuracy", "kendall_tau_b", "ndcg"))
    flat = figure_sums(ScoredSample(s.id, s.ranks, (0.0,) * s.size) for s in decided)
    # A random order is right on all decided pairs with a probability of the product of (rank's multiplicity)! over n!.
    exact = [
        math.prod(math.factorial(s.ranks.count(rank)) for rank in set(s.ranks)) / math.factorial(s.size)
        for s in decided
    ]
    best_alone = [1 / s.size for s in decided if s.ranks.count(min(s.ranks)) == 1]
    return {
        "pair_accuracy": 0.5,
        "exact_order": float(np.mean(exact)),
        "top1_accuracy": float(np.mean(best_alone)) if best_alone else None,
        "kendall_tau_b": 0.0,
        "ndcg": flat["ndcg"].mean,
    }


def means(samples: Sequence[ScoredSample]) -> dict[str, float | None]:
    """Each of FIGURES over `samples`; None where no sample decides it."""
    sums = figure_sums(samples)
    return {name: None if math.isnan(sums[name].mean) else sums[name].mean for name in FIGURES} if samples else {}


def strict_figures(samples: Sequence[ScoredSample], resamples: int, seed: int) -> dict[str, Any]:
    """All figures over `samples`, with 95 % bootstrap intervals, the level of chance, coverage, and breakdowns."""
    complete = sum(sample.complete for sample in samples)
    sums = figure_sums(samples)
    intervals = {name: interval(sums[name], resamples, seed) for name in FIGURES} if samples else {}

    def by(name: str) -> dict[str, dict[str, Any]]:
        values = sorted({getattr(sample, name) for sample in samples})
        parts = {value: [sample for sample in samples if getattr(sample, name) == value] for value in values}
        return {str(value): {"samples": len(part), **means(part)} for value, part in parts.items()}

    return {
        "samples": len(samples),
        "complete_samples": complete,
        "coverage": complete / len(samples) if samples else 0.0,
        "undecided_pairs": sum(math.comb(sample.size, 2) - len(decided_pairs(sample.ranks)) for sample in samples),
        **{name: figures["mean"] for name, figures in intervals.items()},
        "intervals": {name: [figures["low"], figures["high"]] for name, figures in intervals.items()},
        "chance": chance(samples),
        "by_size": by("size"),
        "by_category": by("category"),
        "by_sources": by("sources"),
        "by_dimension": by("dimension"),
    }


def pairwise_by_dimension(samples: Sequence[ScoredSample], dimensions: Sequence[str]) -> dict[str, Any]:
    """EditReward-Bench's strict figures: micro accuracy per dimension, every pair in the denominator, and its macro mean."""
    micro: dict[str, float | None] = {}
    macro: dict[str, float | None] = {}
    for name in dimensions:
        chosen = [sample for sample in samples if sample.dimension == name]
        micro[name] = means(chosen)["pair_accuracy"] if chosen else None
        kinds = sorted({sample.category for sample in chosen})
        by_kind = [means([sample for sample in chosen if sample.category == kind])["pair_accuracy"] for kind in kinds]
        macro[name] = float(np.mean([value for value in by_kind if value is not None])) if by_kind else None
    missing = sum(not sample.complete for sample in samples)
    return {"micro_accuracies": micro, "macro_accuracies": macro, "missing_pairs": missing}
