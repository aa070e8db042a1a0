"""From responses to a ranking benchmark's figures, without a model: candidates' scores, then both rules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.benchmarks import load_benchmark
from evaluation.benchmarks.official import UNREADABLE, combined, lenient_scores
from evaluation.benchmarks.strict import ScoredSample, pairwise_by_dimension, strict_figures
from evaluation.options import Aggregation
from evaluation.responses import Pair, Responses, readable_scores, verdict_rates
from spatial_edit_reward import TASKS, Spec, aggregate

Candidate = Mapping[str, Any]


def mean_pair(pairs: Sequence[Pair]) -> Pair | None:
    return (math.fsum(p[0] for p in pairs) / len(pairs), math.fsum(p[1] for p in pairs) / len(pairs)) if pairs else None


def task_scores(responses: Responses, key: str | None, expected: bool) -> Pair | None:
    """The mean of the readable scores of a request's samples; None where none is readable."""
    scores = [readable_scores(line, responses.spec, expected) for line in responses.of(key) if line is not None]
    return mean_pair([pair for pair in scores if pair is not None])


def overall(sc: Pair, pq: Pair, aggregation: Aggregation, spec: Spec) -> float:
    """The overall score in 0..1, rounded so that scores which are equal by arithmetic tie.

    `weighted`: the spec's own; `min`: sqrt(min SC * min PQ); `mean`: sqrt(mean SC * mean PQ), each relative to the range.
    """
    if aggregation == "weighted":
        return round(aggregate(sc, pq, spec), 9)
    low, high = spec.score_range
    fold = min if aggregation == "min" else lambda pair: sum(pair) / 2
    return round(math.sqrt((fold(sc) - low) / (high - low) * ((fold(pq) - low) / (high - low))), 9)


def candidate_score(
    responses: Responses, candidate: Candidate, dimension: str, aggregation: Aggregation, expected: bool
) -> float | None:
    """A candidate's score on a dimension of EditReward-Bench; None where a verdict that it needs is not readable."""
    sc = task_scores(responses, candidate["sc"], expected)
    if dimension != "overall":
        return None if sc is None else round(sc[0 if dimension == "prompt_following" else 1], 9)
    pq = task_scores(responses, candidate["pq"], expected)
    return None if sc is None or pq is None else overall(sc, pq, aggregation, responses.spec)


def is_complete(responses: Responses, candidate: Candidate) -> bool:
    """Whether every verdict on the candidate was given, readable or not."""
    return all(line is not None for task in TASKS for line in responses.of(candidate[task]))


def official_candidate_score(
    responses: Responses, candidate: Candidate, dimension: str, aggregation: Aggregation
) -> float | None:
    """A candidate's score, 0..10, as the official evaluation has it, unreadable verdicts in the middle.

    None where a verdict was not given.
    """
    if not is_complete(responses, candidate):
        return None
    lines = [[line for line in responses.of(candidate[task]) if line is not None] for task in TASKS]
    score_range = responses.spec.score_range
    sc, pq = (mean_pair([lenient_scores(line["text"], score_range) for line in of]) or UNREADABLE for of in lines)
    if dimension != "overall":
        return sc[0 if dimension == "prompt_following" else 1] / 2.5
    return combined(sc, pq, aggregation)


def scored_samples(responses: Responses, aggregation: Aggregation, expected: bool = False) -> list[ScoredSample]:
    """The samples with their scores, candidates in the shuffled order of the requests."""
    return [
        _sample(
            row,
            row["candidates"],
            [candidate_score(responses, one, row["dimension"], aggregation, expected) for one in row["candidates"]],
            all(is_complete(responses, one) for one in row["candidates"]),
        )
        for row in responses.header["rows"]
    ]


def _sample(
    row: Mapping[str, Any], candidates: Sequence[Candidate], scores: Sequence[float | None], complete: bool
) -> ScoredSample:
    names = ("id", "category", "dimension", "sources", "group", "extra")
    about = {name: row[name] for name in names if name in row}
    return ScoredSample(
        ranks=tuple(one["rank"] for one in candidates), scores=tuple(scores), complete=complete, **about
    )


def blind_samples(rows: Sequence[Mapping[str, Any]]) -> list[ScoredSample]:
    """What a pointwise scorer without images gives: candidates of a sample are the same request to it, so all tie."""
    return [_sample(row, row["candidates"], [0.0] * len(row["candidates"]), True) for row in rows]


def official_samples(responses: Responses, aggregation: Aggregation) -> list[ScoredSample]:
    """The samples with their official scores, candidates in the stored order."""
    samples = []
    for row in responses.header["rows"]:
        stored = sorted(row["candidates"], key=lambda one: one["place"])
        scores = [official_candidate_score(responses, one, row["dimension"], aggregation) for one in stored]
        samples.append(_sample(row, stored, scores, None not in scores))
    return samples


def both_rules(
    bench: str, official: Sequence[ScoredSample], strict: Sequence[ScoredSample], resamples: int, seed: int
) -> dict[str, Any]:
    """{"published": the figures of the benchmark's own rule, "honest": the strict ones}."""
    module, figures = load_benchmark(bench), strict_figures(strict, resamples, seed)
    if hasattr(module, "DIMENSIONS"):
        figures |= pairwise_by_dimension(strict, module.DIMENSIONS)
    return {"published": module.official_score(official), "honest": figures}


def benchmark_figures(
    responses: Responses, aggregation: Aggregation, resamples: int, expected: bool = False
) -> dict[str, Any]:
    """`both_rules` over the responses of a ranking benchmark, with the rates of its verdicts."""
    bench, seed = responses.header["bench"], responses.header["seed"]
    samples = scored_samples(responses, aggregation, expected)
    figures = both_rules(bench, official_samples(responses, aggregation), samples, resamples, seed)
    figures["honest"] |= {"aggregation": aggregation, **verdict_rates(responses)}
    return figures
