"""TIGER's EditReward-Bench (huggingface.co/datasets/TIGER-Lab/EditReward-Bench, gated): two to four edits, judged in pairs.

Columns are the ones that its own evaluation code reads: one split, a row for each pair, `dataset` names the size ("2pair"), and
a sample of three or four candidates is the rows that share the id up to its first "_", or without one its first ten characters.
The rows were not seen on the Hub.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.benchmarks.draw import IMAGE, SIZES, TEXT, Group, ranked, write_rows
from evaluation.benchmarks.official import Rows, mean
from evaluation.benchmarks.samples import Candidate, Sample, text_of
from evaluation.benchmarks.strict import ScoredSample
from evaluation.benchmarks.tables import Table, load_tables
from evaluation.requests import EncodedImage
from spatial_edit_reward.errors import UserError

TITLE = "EditReward-Bench (TIGER)"
HEADLINE = ("overall", "pairwise_accuracy")
PAPER: dict[str, float] = {}
Votes = dict[tuple[int, int], int]


def read(source: str | None) -> list[Sample]:
    """The pairs of a sample put together again; candidates A, B, ... are ranked by the number of pairs won."""
    columns = ("id", "dataset", "instruction", "source_image", "candidate_1", "candidate_2", "ranking")
    [table] = load_tables(source, "TIGER-Lab/EditReward-Bench", ["train"], columns)
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, row in enumerate(table.rows):
        kind, name = str(row["dataset"]), str(row["id"])
        if kind not in [f"{size}pair" for size in SIZES]:
            raise UserError(f"{table.name}: {name}: dataset must be 2pair, 3pair or 4pair, got {kind!r}")
        sample = name.split("_")[0] if "_" in name else name[:10]
        groups[kind, name if kind == "2pair" else sample].append(i)
    return [_sample_of(table, kind, name, rows) for (kind, name), rows in groups.items()]


def _sample_of(table: Table, kind: str, name: str, rows: Sequence[int]) -> Sample:
    images: dict[str, Callable[[], EncodedImage | None]] = {}
    votes: dict[tuple[str, str], int] = {}
    wins: dict[str, int] = defaultdict(int)
    for i in rows:
        first, second = str(table.rows[i].get("comparison_type") or "AvsB").split("vs")
        if (first, second) in votes:
            raise UserError(f"{table.name}: {name}: {first} against {second} comes twice")
        images.setdefault(first, partial(table.image, i, "candidate_1"))
        images.setdefault(second, partial(table.image, i, "candidate_2"))
        votes[first, second] = vote = _vote(table, i, first, second)
        wins[first] += vote
        wins[second] -= vote
    letters, levels = sorted(images), sorted(set(wins.values()), reverse=True)
    edits = tuple(Candidate(f"{name}/{letter}", levels.index(wins[letter]), images[letter]) for letter in letters)
    extra = ",".join(f"{letters.index(a)}{letters.index(b)}{vote:+d}" for (a, b), vote in votes.items())
    instruction = text_of(table.rows[rows[0]], "instruction", f"{table.name}: {name}")
    return Sample(
        f"{kind}/{name}", kind, instruction, edits, partial(table.images, rows[0], "source_image"), extra=extra
    )


def _vote(table: Table, i: int, first: str, second: str) -> int:
    """1: `first` was preferred, -1: `second`, 0: a tie."""
    ranking = str(table.rows[i]["ranking"]).replace(" ", "")
    if ranking == f"{first}>{second}":
        return 1
    if ranking in (f"{second}>{first}", f"{first}<{second}"):
        return -1
    if ranking.startswith(f"{first}={second}"):
        return 0
    raise UserError(f"{table.name}: {table.rows[i]['id']}: ranking {ranking!r} is not about {first} and {second}")


def votes_of(extra: str) -> Votes:
    """The votes that a sample carries: "01+1,02-1" is {(0, 1): 1, (0, 2): -1}."""
    return {(int(vote[0]), int(vote[1])): int(vote[2:]) for vote in extra.split(",")}


def official_score(samples: Sequence[ScoredSample]) -> dict[str, Any]:
    """As TIGER's own evaluation of pointwise reward models: accuracy over pairs, share of exactly ranked samples.

    Two candidates: at the best tie threshold; three and four have no ties among people's votes, and equal scores are wrong;
    overall: all pairs, at their own best threshold. The predicted ranking is the reversed rising sort.
    """
    scored = [
        ([score for score in sample.scores if score is not None], votes_of(sample.extra))
        for sample in samples
        if None not in sample.scores
    ]

    def pairs(of: Sequence[tuple[list[float], Votes]]) -> tuple[list[int], list[float]]:
        both = [(vote, scores[i] - scores[j]) for scores, votes in of for (i, j), vote in votes.items()]
        return [vote for vote, _ in both], [gap for _, gap in both]

    figures: dict[str, Any] = {}
    all_right = 0
    for size in SIZES:
        of = [(scores, votes) for scores, votes in scored if len(scores) == size]
        if not of:
            continue
        signs, gaps = pairs(of)
        accuracy, threshold = best_threshold(signs, gaps)
        if size > 2:
            accuracy = mean(sign * gap > 0 for sign, gap in zip(signs, gaps, strict=True) if sign) or 0.0
        right = sum(_ranked_right(scores, votes, threshold) for scores, votes in of)
        all_right += right
        figures[f"{size}pair"] = _figures(accuracy, right / len(of), len(signs))
    signs, gaps = pairs(scored)
    figures["overall"] = _figures(
        best_threshold(signs, gaps)[0], all_right / len(scored) if scored else 0.0, len(signs)
    )
    return figures


def _figures(pairwise: float, exact: float, count: int) -> dict[str, Any]:
    return {"pairwise_accuracy": pairwise, "strict_ranking_accuracy": exact, "pair_count": count}


def best_threshold(votes: Sequence[int], gaps: Sequence[float]) -> tuple[float, float]:
    """(accuracy, threshold): the best that any threshold, up to which a score difference is called a tie, can reach."""
    if not gaps:
        return 0.0, 0.0
    best = (-1.0, -1.0)
    for threshold in [0.0, *sorted({abs(gap) for gap in gaps})]:
        right = [
            abs(gap) <= threshold if vote == 0 else abs(gap) > threshold and vote * gap > 0
            for vote, gap in zip(votes, gaps, strict=True)
        ]
        best = max(best, (float(np.mean(right)), threshold), key=lambda pair: pair[0])
    return best


def _ranked_right(scores: Sequence[float], votes: Votes, threshold: float) -> bool:
    """Whether people's ranking is the predicted one; of two that they saw tied, whether the scores are within `threshold`."""
    n = len(scores)
    wins = [sum(vote * (1 if a == i else -1) for (a, b), vote in votes.items() if i in (a, b)) for i in range(n)]
    if len(set(wins)) < n:
        return n == 2 and abs(scores[0] - scores[1]) <= threshold
    return sorted(range(n), key=lambda i: -wins[i]) == list(np.argsort(np.array(scores), kind="stable")[::-1])


def read_official_results(results: Mapping[str, Any], rows: Rows | None, file: Path) -> list[ScoredSample]:
    """Its evaluation writes no scores. Raises UserError."""
    raise UserError("tiger-editreward-bench: only result files of this project can be scored")


def draw(samples: int, seed: int, side: int, folder: Path) -> None:
    """`2pair/` to `4pair/`: the candidates' letters tell nothing of the order."""
    columns = dict.fromkeys(("id", "dataset", "instruction", "ranking", "comparison_type"), TEXT)
    columns |= dict.fromkeys(("source_image", "candidate_1", "candidate_2"), IMAGE)
    for size in SIZES:
        rng = np.random.default_rng([seed, size, 1])

        def rows_of(group: Group, size: int = size, rng: np.random.Generator = rng) -> list[dict[str, Any]]:
            edits = ranked(group, size, rng)
            if edits is None:
                return []
            ranks = dict(zip("ABCD", rng.permutation(size).tolist(), strict=False))  # of each letter, 0 the best
            rows = []
            for a, b in combinations(ranks, 2):
                name = f"{group.number}" if size == 2 else f"{group.number}_{a}{b}"
                row = {"id": name, "dataset": f"{size}pair", "instruction": group.instruction}
                row |= {"ranking": f"{a}>{b}" if ranks[a] < ranks[b] else f"{b}>{a}", "comparison_type": f"{a}vs{b}"}
                row |= {"source_image": group.source, "candidate_1": edits[ranks[a]].image}
                rows.append(row | {"candidate_2": edits[ranks[b]].image})
            return rows

        write_rows(
            folder / f"{size}pair" / "train-00000-of-00001.parquet", columns, samples, seed + 10 + size, side, rows_of
        )
