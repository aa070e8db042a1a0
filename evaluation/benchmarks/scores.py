"""From a result file's verdicts to figures, without a model: candidates' scores under an aggregation, then both rules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from evaluation.benchmarks import published
from evaluation.benchmarks.strict import Scored, honest, pairwise_by_dimension
from spatial_edit_reward import TASKS, ParseFailure, Spec, Task, aggregate, parse, repair
from spatial_edit_reward.checks import valid_scores
from spatial_edit_reward.errors import UserError, one_line
from spatial_edit_reward.inference.store import Name, read_header, read_responses

Aggregation = Literal["weighted", "min", "mean"]
AGGREGATIONS: tuple[Aggregation, ...] = ("weighted", "min", "mean")
Pair = tuple[float, float]


@dataclass(frozen=True)
class Run:
    """A result file: what was asked (`head`), and what was answered."""

    head: dict[str, Any]
    spec: Spec
    verdicts: Mapping[Name, Mapping[str, Any]]

    def lines(self, key: str | None) -> list[Mapping[str, Any] | None]:
        """The verdicts of a question, one for each sample; None for one that is not there."""
        return [self.verdicts.get((key, number)) if key else None for number in range(self.head["samples"])]


def read_run(file: Path) -> Run:
    """The run in a result file. Raises UserError where it is none."""
    head = read_header(file)
    try:
        return Run(head, Spec.model_validate(head["spec"]), read_responses(file))
    except (KeyError, ValueError) as error:
        raise UserError(f"{file}: not a whole result file: {one_line(error)}") from None


def readable_scores(line: Mapping[str, Any], spec: Spec, expected: bool) -> Pair | None:
    """The two scores of a verdict, repaired where that invents nothing; None: unparsed, or a score out of range.

    `expected`: the ones read from the score tokens' probabilities instead, where the verdict has them.
    """
    try:
        verdict = repair(line["text"], line["task"]).verdict
    except ParseFailure:
        return None
    said = valid_scores(verdict, spec.score_range)
    if expected and said is not None and line.get("expected"):
        return float(line["expected"][0]), float(line["expected"][1])
    return said


def _mean_pair(pairs: Sequence[Pair]) -> Pair | None:
    return (math.fsum(p[0] for p in pairs) / len(pairs), math.fsum(p[1] for p in pairs) / len(pairs)) if pairs else None


def task_scores(run: Run, key: str | None, expected: bool) -> Pair | None:
    """The mean of the readable scores of a question's verdicts; None where none is readable."""
    found = [readable_scores(line, run.spec, expected) for line in run.lines(key) if line is not None]
    return _mean_pair([scores for scores in found if scores is not None])


def overall(sc: Pair, pq: Pair, how: Aggregation, spec: Spec) -> float:
    """The overall score in 0..1, rounded so that scores which are equal by arithmetic tie.

    `weighted`: `verdict.aggregate`; `min`: sqrt(min SC * min PQ); `mean`: sqrt(mean SC * mean PQ), each relative to the range.
    """
    if how == "weighted":
        return round(aggregate(sc, pq, spec), 9)
    low, high = spec.score_range
    fold = min if how == "min" else lambda pair: sum(pair) / 2
    return round(math.sqrt((fold(sc) - low) / (high - low) * ((fold(pq) - low) / (high - low))), 9)


def candidate_score(
    run: Run, candidate: Mapping[str, Any], dimension: str, how: Aggregation, expected: bool
) -> float | None:
    """A candidate's score on a dimension of EditReward-Bench; None where a verdict that it needs is not readable."""
    sc = task_scores(run, candidate["sc"], expected)
    if dimension != "overall":
        return None if sc is None else round(sc[0 if dimension == "prompt_following" else 1], 9)
    pq = task_scores(run, candidate["pq"], expected)
    return None if sc is None or pq is None else overall(sc, pq, how, run.spec)


def is_answered(run: Run, candidate: Mapping[str, Any]) -> bool:
    """Whether every verdict on the candidate was given, readable or not."""
    return all(line is not None for task in TASKS for line in run.lines(candidate[task]))


def scored_samples(run: Run, how: Aggregation, expected: bool) -> list[Scored]:
    """The samples of a ranking benchmark with their scores, candidates in the shuffled order that they were asked in."""
    return [
        Scored(
            id=row["id"],
            ranks=tuple(one["rank"] for one in row["candidates"]),
            scores=tuple(candidate_score(run, one, row["dimension"], how, expected) for one in row["candidates"]),
            category=row["category"],
            dimension=row["dimension"],
            sources=row["sources"],
            group=row["group"],
            complete=all(is_answered(run, one) for one in row["candidates"]),
        )
        for row in run.head["rows"]
    ]


def published_score(run: Run, candidate: Mapping[str, Any], dimension: str, how: Aggregation) -> float | None:
    """A candidate's score as the published evaluation has it, unreadable verdicts at 12.5; None where one was not given."""
    if not is_answered(run, candidate):
        return None
    pairs = {}
    for task in TASKS:
        found = [published.lenient_scores(line["text"]) for line in run.lines(candidate[task]) if line is not None]
        pairs[task] = _mean_pair(found) or published.UNREADABLE
    if dimension != "overall":
        return pairs["sc"][0 if dimension == "prompt_following" else 1] / 2.5
    return published.combined(pairs["sc"], pairs["pq"], how)


def published_figures(run: Run, how: Aggregation) -> dict[str, Any]:
    """The figures of a ranking benchmark by its own rule, candidates in the stored order."""
    bench = run.head["bench"]
    found: list[tuple[Mapping[str, Any], list[float | None]]] = []
    for row in run.head["rows"]:
        stored = sorted(row["candidates"], key=lambda one: one["place"])
        found.append((row, [published_score(run, one, row["dimension"], how) for one in stored]))
    whole = [(row, [score for score in scores if score is not None]) for row, scores in found if None not in scores]
    if bench == "merbench":
        return published.merbench(
            [
                published.Ranked(published.falling(scores), range(len(scores)), scores, row["category"], len(scores))
                for row, scores in whole
            ]
        )
    if bench == "editreward-bench":
        return published.editreward_bench(
            [published.Compared(row["category"], row["dimension"], *scores) for row, scores in found]
        )
    if bench == "mmrb2":
        return published.mmrb2(
            [
                published.Preferred(scores[0], scores[1], row["extra"], row["category"], row["sources"])
                for row, scores in found
            ]
        )
    return published.tiger([published.Voted(scores, votes_of(row["extra"])) for row, scores in whole])


def votes_of(text: str) -> dict[tuple[int, int], int]:
    """The votes that a row of TIGER's benchmark carries: "01+1,02-1" is {(0, 1): 1, (0, 2): -1}."""
    return {(int(vote[0]), int(vote[1])): int(vote[2:]) for vote in text.split(",")}


def verdict_rates(run: Run) -> dict[str, Any]:
    """Over all verdicts in the file: how many, the shares unparsed, read only after a repair, and truncated, and tokens.

    Unparsed is a verdict without two scores in range; it counts as wrong.
    """
    lines = list(run.verdicts.values())
    unparsed = [readable_scores(line, run.spec, False) is None for line in lines]
    repaired = [not bad and not _strict(line["text"], line["task"]) for line, bad in zip(lines, unparsed, strict=True)]

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


def _strict(text: str, task: Task) -> bool:
    try:
        parse(text, task)
    except ParseFailure:
        return False
    return True


def both_rules(run: Run, how: Aggregation, resamples: int, expected: bool = False) -> dict[str, Any]:
    """{"published", "honest"} of a ranking benchmark's run."""
    samples = scored_samples(run, how, expected)
    figures = honest(samples, resamples, run.head["seed"])
    if run.head["bench"] == "editreward-bench":
        figures |= pairwise_by_dimension(samples, published.DIMENSIONS)
    figures |= {"aggregation": how, **verdict_rates(run)}
    return {"published": published_figures(run, how), "honest": figures}
