"""MER-Bench (huggingface.co/datasets/SpatialReward/MER-Bench): two, three or four edits of an image, ranked by people.

The official rule is the one of SpatialReward's evaluation (its repository at aa47b2e), errors included: candidates are stored
best first and sorted with a stable sort, so that a constant scorer is rewarded, and NDCG looks up the inverse of the ranking.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluation.benchmarks.draw import IMAGE, IMAGES, SIZES, TEXT, Group, ranked, write_rows
from evaluation.benchmarks.official import PAPER_MODELS, Rows, falling, mean, number, require_key
from evaluation.benchmarks.samples import Candidate, Sample, text_of
from evaluation.benchmarks.strict import ScoredSample, all_finite
from evaluation.benchmarks.tables import load_tables
from spatial_edit_reward.errors import UserError

TITLE = "MER-Bench"
HEADLINE = ("exact_match_acc",)
PAPER = dict(zip(PAPER_MODELS, (0.358, 0.423, 0.462, 0.508, 0.350, 0.448, 0.483), strict=True))
# The same of the 200 samples of four candidates.
PAPER_FOUR_CANDIDATES = {"SpatialReward-8B": 0.215, "Gemini-3.0-Flash": 0.195}


FIGURES = (
    *("exact_match_acc", "avg_kendall_tau", "avg_spearman_rho", "avg_ndcg"),
    *("top1_accuracy", "top2_accuracy", "avg_position_error"),
)


class Ranking(NamedTuple):
    """A result as the official evaluation writes it: `pred` and `true` list candidates, best first; `scores` as stored."""

    pred: Sequence[int]
    true: Sequence[int]
    scores: Sequence[Any]
    size: int


def read(source: str | None) -> list[Sample]:
    """Splits 2pair, 3pair and 4pair; `edited_images` best first. An id that comes again gets its number of edits in front."""
    columns = ("pair_id", "label", "instruction", "original_image", "edited_images")
    tables = load_tables(source, "SpatialReward/MER-Bench", [f"{size}pair" for size in SIZES], columns)
    uses = Counter(str(row["pair_id"]) for table in tables for row in table.rows)
    samples = []
    for table in tables:
        for i, row in enumerate(table.rows):
            name, size = str(row["pair_id"]), row["edited_images"]
            name = name if uses[name] == 1 else f"{size}pair/{name}"
            edits = (Candidate(f"{name}/{n}", n, partial(table.image, i, "edited_images", n)) for n in range(size))
            instruction = text_of(row, "instruction", f"{table.name}: {name}")
            sources = partial(table.images, i, "original_image")
            samples.append(Sample(name, str(row["label"]), instruction, tuple(edits), sources))
    return samples


def official_score(samples: Sequence[ScoredSample]) -> dict[str, Any]:
    """Plain means over the samples that have a ranking; None where there is none."""
    rankings, labels = [], []
    for sample in samples:
        scores = [score for score in sample.scores if score is not None]
        if sample.extra:
            rankings.append(sample.extra)
        elif len(scores) == sample.size:
            rankings.append(Ranking(falling(scores), range(sample.size), scores, sample.size))
        else:
            continue
        labels.append(sample.category)
    figures = [rank_figures(one) for one in rankings]

    def exact(chosen: Iterable[bool]) -> float | None:
        return mean(figure["exact_match_acc"] for figure, keep in zip(figures, chosen, strict=True) if keep)

    return {
        "total_samples": len(rankings),
        **{name: mean(figure[name] for figure in figures) for name in FIGURES},
        **{f"accuracy_{size}pair": exact(one.size == size for one in rankings) for size in SIZES},
        "accuracy_by_label": {label: exact(one == label for one in labels) for label in sorted(set(labels))},
    }


def rank_figures(ranking: Ranking) -> dict[str, float]:
    """The official figures of one sample."""
    pred, true, scores, _ = ranking
    n = len(pred)
    # of a pair of positions: 1 in the same order, -1 in the other
    signs = [np.sign(pred[i] - pred[j]) * np.sign(true[i] - true[j]) for i, j in combinations(range(n), 2)]
    squares = sum((p - t) ** 2 for p, t in zip(pred, true, strict=True))
    ideal = sum((n - i) / math.log2(i + 2) for i in range(n))
    return {
        "exact_match_acc": float(list(pred) == list(true) and not (scores and len(set(scores)) < n)),
        "avg_kendall_tau": float(sum(signs) / (0.5 * n * (n - 1))) if n > 1 else 0.0,
        "avg_spearman_rho": 1 - 6 * squares / (n * (n**2 - 1)) if n > 1 else 0.0,
        "avg_ndcg": sum((n - t) / math.log2(p + 2) for p, t in zip(pred, true, strict=True)) / ideal,
        "top1_accuracy": float(pred[0] == 0),
        "top2_accuracy": float(n >= 2 and set(pred[:2]) == {0, 1}),
        "avg_position_error": sum(abs(p - i) for i, p in enumerate(pred)) / n,
    }


def read_official_results(results: Mapping[str, Any], rows: Rows | None, file: Path) -> list[ScoredSample]:
    """pair_id -> {scores, pred_rank, gt_rank, label, pair_type}. `rows`: the benchmark's, for samples that the results lack."""
    sizes: dict[str, int] = {}  # of what has no result
    labels: dict[str, str] = {}
    for i, row in enumerate(rows or (), 1):
        name = str(require_key(row, "pair_id", f"benchmark row {i}"))
        if name in sizes:
            raise UserError(f"benchmark row {i}: pair_id {name!r} comes again, and results are named by it alone")
        sizes[name], labels[name] = _size_of(row, f"benchmark row {i}"), str(row.get("label", ""))
    samples = []
    for name, result in results.items():
        where = f"{file}: {name}"
        if not isinstance(result, Mapping):
            raise UserError(f"{where}: expected an object")
        labels[name] = str(result.get("label", labels.get(name, "")))
        if "pred_rank" not in result or "gt_rank" not in result:  # the official rule passes over it
            sizes.setdefault(name, _size_of(result, where))
            continue
        pred, true, scores = result["pred_rank"], result["gt_rank"], result.get("scores") or []
        if not _is_permutation(pred) or not _is_permutation(true) or len(pred) != len(true):
            raise UserError(f"{where}: pred_rank and gt_rank must each list the candidates 0 to n-1 once")
        if scores and len(scores) != len(pred):
            raise UserError(f"{where}: {len(scores)} scores for {len(pred)} candidates")
        stored = [number(score) for score in scores] or [-float(pred.index(i)) for i in range(len(pred))]
        ranks, ranking = (
            tuple(true.index(i) for i in range(len(true))),
            Ranking(pred, true, scores, _size_of(result, where)),
        )
        complete = all_finite(stored)
        samples.append(ScoredSample(name, ranks, tuple(stored), labels[name], complete=complete, extra=ranking))
        sizes.pop(name, None)
    for name, size in sizes.items():
        samples.append(ScoredSample(name, tuple(range(size)), (None,) * size, labels[name], complete=False))
    return samples


def _size_of(row: Mapping[str, Any], where: str) -> int:
    """How many candidates a sample has: its `pair_type`, else the length of what it lists, else 2."""
    if "pair_type" in row:
        size = str(row["pair_type"]).removesuffix("pair")
        if size not in ("2", "3", "4"):
            raise UserError(f"{where}: pair_type must be 2, 3 or 4, got {row['pair_type']!r}")
        return int(size)
    lists = (row.get(name) for name in ("pred_rank", "gt_rank", "scores", "edited_images"))
    return next((len(listed) for listed in lists if isinstance(listed, list) and listed), 2)


def _is_permutation(value: Any) -> bool:
    """Whether `value` lists 0 to n-1 once each, n at least 1."""
    integers = isinstance(value, list) and all(type(index) is int for index in value)
    return integers and bool(value) and sorted(value) == list(range(len(value)))


def draw(samples: int, seed: int, side: int, folder: Path) -> None:
    """`data/2pair-...` to `4pair`."""
    columns = {"pair_id": TEXT, "label": TEXT, "instruction": TEXT, "original_image": IMAGE, "edited_images": IMAGES}
    for size in SIZES:
        rng = np.random.default_rng([seed, size])

        def rows_of(group: Group, size: int = size, rng: np.random.Generator = rng) -> list[dict[str, Any]]:
            edits = ranked(group, size, rng)
            if edits is None:
                return []
            row = {"pair_id": f"{size}-{group.number}", "label": group.category, "instruction": group.instruction}
            return [row | {"original_image": group.source, "edited_images": [edit.image for edit in edits]}]

        file = folder / "data" / f"{size}pair-00000-of-00001.parquet"
        write_rows(file, columns, samples, seed + size, side, rows_of)
