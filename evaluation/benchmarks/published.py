"""The published rules of the four ranking benchmarks, faults included: what a published number was computed with.

MER-Bench, EditReward-Bench (EditScore) and MMRB2 as SpatialReward's evaluation computes them (its repository at aa47b2e);
EditReward-Bench (TIGER) as that benchmark's own evaluation of pointwise reward models does. Known faults that are kept:
candidates are stored best first and sorted with a stable sort, so that a constant scorer is rewarded; NDCG looks up the
inverse of the ranking; pairs without a result leave the denominator. `honest.py` has none of them.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

DIMENSIONS = ("prompt_following", "consistency", "overall")
SIZES = (2, 3, 4)
# What an answer without scores counts as: the middle of 0..25, twice.
UNREADABLE = (12.5, 12.5)
NUMBER = r"[-+]?\d*\.?\d+"
SCORES_IN_TEXT = re.compile(rf'"score"\s*:\s*\[({NUMBER}),\s*({NUMBER})(?:,\s*{NUMBER})*\]')


def lenient_scores(text: str) -> tuple[float, float]:
    """The two scores that the published evaluation reads out of a completion; UNREADABLE where it finds none.

    Negative ones, at which it would break off, are UNREADABLE too.
    """
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    first, last = text.find("{"), text.rfind("}")
    if first < 0 or last < 0:
        return UNREADABLE
    content = text[first : last + 1]
    try:
        found = json.loads(content)
        scores = found.get("score", UNREADABLE)
        scores = list(scores) if isinstance(scores, (list, tuple)) else [scores]
        scores = scores * 2 if len(scores) == 1 else scores or UNREADABLE
        pair = float(scores[0]), float(scores[1])
    except json.JSONDecodeError:
        match = SCORES_IN_TEXT.search(content)
        pair = (float(match[1]), float(match[2])) if match else UNREADABLE
    except (AttributeError, TypeError, ValueError, OverflowError, RecursionError):
        return UNREADABLE
    return pair if all(math.isfinite(score) and score >= 0 for score in pair) else UNREADABLE


def combined(sc: Sequence[float], pq: Sequence[float], how: str) -> float:
    """The overall score, 0..10, in the published order of operations: "weighted" (0.6, 0.4, 0.5, 0.5, power 0.8), min or mean.

    Scores of 0..25 are divided by 2.5 first. `mean` is the square root of the product of the two means.
    """
    if how == "weighted":
        s1, s2, s3, s4 = (score / 2.5 for score in (*sc, *pq))
        return float((0.6 * s1 + 0.4 * s2) ** 0.8 * (0.5 * s3 + 0.5 * s4) ** (1 - 0.8))
    if how == "min":
        return math.sqrt(min(sc) / 2.5 * (min(pq) / 2.5))
    return math.sqrt(sum(sc) / 2 / 2.5 * (sum(pq) / 2 / 2.5))


def falling(scores: Sequence[float]) -> list[int]:
    """Indices by falling score, ties in stored order."""
    return sorted(range(len(scores)), key=lambda place: scores[place], reverse=True)


def rank_figures(pred: Sequence[int], true: Sequence[int], scores: Sequence[float]) -> dict[str, float]:
    """MER-Bench's figures of one sample. `pred`, `true`: permutations of 0..n-1, best candidate first."""
    n = len(pred)
    signs = [
        np.sign(pred[i] - pred[j]) * np.sign(true[i] - true[j]) for i, j in combinations(range(n), 2)
    ]  # of a pair of places: 1 in the same order, -1 in the other
    ideal = sum((n - i) / math.log2(i + 2) for i in range(n))
    return {
        "exact_match": float(list(pred) == list(true) and not (scores and len(set(scores)) < n)),
        "kendall_tau": float(sum(signs) / (0.5 * n * (n - 1))) if n > 1 else 0.0,
        "spearman_rho": 1 - 6 * sum((p - t) ** 2 for p, t in zip(pred, true, strict=True)) / (n * (n**2 - 1))
        if n > 1
        else 0.0,
        "ndcg": sum((n - t) / math.log2(p + 2) for p, t in zip(pred, true, strict=True)) / ideal,
        "top1": float(pred[0] == 0),
        "top2": float(n >= 2 and set(pred[:2]) == {0, 1}),
        "position_error": sum(abs(p - i) for i, p in enumerate(pred)) / n,
    }


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return float(np.mean(found)) if found else None


class Ranked(NamedTuple):
    """One MER-Bench result: `pred_rank` and `gt_rank` list candidates, best first; `scores` in stored order."""

    pred_rank: Sequence[int]
    gt_rank: Sequence[int]
    scores: Sequence[float]
    label: str
    size: int


def merbench(results: Sequence[Ranked]) -> dict[str, Any]:
    """MER-Bench: plain means over samples; None where there is none."""
    figures = [rank_figures(one.pred_rank, one.gt_rank, one.scores) for one in results]

    def exact(chosen: Iterable[bool]) -> float | None:
        return _mean(figure["exact_match"] for figure, keep in zip(figures, chosen, strict=True) if keep)

    names = {
        "exact_match_acc": "exact_match",
        "avg_kendall_tau": "kendall_tau",
        "avg_spearman_rho": "spearman_rho",
        "avg_ndcg": "ndcg",
        "top1_accuracy": "top1",
        "top2_accuracy": "top2",
        "avg_position_error": "position_error",
    }
    return {
        "total_samples": len(results),
        **{name: _mean(figure[own] for figure in figures) for name, own in names.items()},
        **{f"accuracy_{size}pair": exact(one.size == size for one in results) for size in SIZES},
        "accuracy_by_label": {
            label: exact(one.label == label for one in results) for label in sorted({one.label for one in results})
        },
    }


class Compared(NamedTuple):
    """One pair of EditReward-Bench on its dimension, the better one first; a score is None where there is no result."""

    task_type: str
    dimension: str
    first: float | None
    second: float | None


def editreward_bench(pairs: Sequence[Compared]) -> dict[str, Any]:
    """EditReward-Bench: mean per (task type, dimension) over pairs with both results, then over the task types that have any.

    A dimension without a scored pair inside such a type counts 0.
    """
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for pair in pairs:
        if pair.first is not None and pair.second is not None:
            right[pair.task_type][pair.dimension].append(pair.first > pair.second)
    accuracies = {
        kind: {name: _mean(found[name]) or 0.0 for name in DIMENSIONS} for kind, found in sorted(right.items())
    }
    return {
        "average_accuracies": {name: _mean(of[name] for of in accuracies.values()) or 0.0 for name in DIMENSIONS},
        "accuracies": accuracies,
        "scored_pairs": sum(len(values) for found in right.values() for values in found.values()),
    }


class Preferred(NamedTuple):
    """One pair of MMRB2: the overall scores of responses A and B (None: no result), and which people chose."""

    a: float | None
    b: float | None
    chosen: str
    source: str
    images: int


def mmrb2(pairs: Sequence[Preferred]) -> dict[str, Any]:
    """MMRB2: right when the chosen response scores higher, ties wrong, pairs without both results skipped; micro mean."""
    scored = [pair for pair in pairs if pair.a is not None and pair.b is not None]

    def accuracy(of: Sequence[Preferred]) -> float:
        right = [
            ("A" if pair.a > pair.b else "B" if pair.b > pair.a else "tie") == pair.chosen
            for pair in of
            if pair.a is not None and pair.b is not None
        ]
        return _mean(right) or 0.0

    by_source, by_images = sorted({pair.source for pair in scored}), sorted({pair.images for pair in scored})
    return {
        "overall_accuracy": accuracy(scored),
        "total_pairs": len(scored),
        "correct_predictions": round(accuracy(scored) * len(scored)),
        "missing_pairs": len(pairs) - len(scored),
        "per_source_accuracy": {name: accuracy([pair for pair in scored if pair.source == name]) for name in by_source},
        "per_image_count_accuracy": {
            str(count): accuracy([pair for pair in scored if pair.images == count]) for count in by_images
        },
    }


class Voted(NamedTuple):
    """One sample of TIGER's benchmark: scores of candidates A, B, ..., and for each pair of places what people preferred.

    `votes`: (i, j) -> 1 (i is better), -1 (j is), 0 (a tie).
    """

    scores: Sequence[float]
    votes: Mapping[tuple[int, int], int]


def with_ties(votes: Sequence[int], gaps: Sequence[float]) -> tuple[float, float]:
    """(accuracy, threshold): the best that any threshold, below which a score difference is called a tie, can reach."""
    if not gaps:
        return 0.0, 0.0
    best = (-1.0, -1.0)
    for threshold in [0.0, *sorted({abs(gap) for gap in gaps})]:
        right = [
            abs(gap) <= threshold if vote == 0 else abs(gap) > threshold and vote * gap > 0
            for vote, gap in zip(votes, gaps, strict=True)
        ]
        best = max(best, (float(np.mean(right)), threshold), key=lambda found: found[0])
    return best


def _order(sample: Voted) -> list[int] | None:
    """The candidates as people ranked them, best first; None for a tie among them."""
    n = len(sample.scores)
    wins = [
        sum(vote * (1 if i == place else -1) for (i, j), vote in sample.votes.items() if place in (i, j))
        for place in range(n)
    ]
    order = sorted(range(n), key=lambda place: -wins[place])
    return order if len(set(wins)) == n else None


def tiger(samples: Sequence[Voted]) -> dict[str, Any]:
    """TIGER's EditReward-Bench: accuracy over pairs and share of exactly ranked samples, per size and overall.

    Two candidates: at the best tie threshold; three and four have no ties among people's votes, and equal scores are wrong;
    overall: all pairs, at their own best threshold. The predicted ranking is the reversed rising sort.
    """

    def pairs(of: Sequence[Voted]) -> tuple[list[int], list[float]]:
        found = [(vote, one.scores[i] - one.scores[j]) for one in of for (i, j), vote in one.votes.items()]
        return [vote for vote, _ in found], [gap for _, gap in found]

    figures: dict[str, Any] = {}
    strict_right = 0
    for size in SIZES:
        of = [one for one in samples if len(one.scores) == size]
        if not of:
            continue
        votes, gaps = pairs(of)
        threshold = 0.0
        if size == 2:
            accuracy, threshold = with_ties(votes, gaps)
        else:
            accuracy = _mean(vote * gap > 0 for vote, gap in zip(votes, gaps, strict=True) if vote) or 0.0
        right = 0
        for one in of:
            order = _order(one)
            if order is None:
                right += size == 2 and abs(one.scores[0] - one.scores[1]) <= threshold
            else:
                right += order == list(np.argsort(np.array(one.scores), kind="stable")[::-1])
        strict_right += right
        figures[f"{size}pair"] = {
            "pairwise_accuracy": accuracy,
            "strict_ranking_accuracy": right / len(of),
            "pair_count": len(votes),
        }
    votes, gaps = pairs(samples)
    figures["overall"] = {
        "pairwise_accuracy": with_ties(votes, gaps)[0],
        "strict_ranking_accuracy": strict_right / len(samples) if samples else 0.0,
        "pair_count": len(votes),
    }
    return figures
