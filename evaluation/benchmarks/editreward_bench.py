"""EditScore's EditReward-Bench (huggingface.co/datasets/EditScore/EditReward-Bench): pairs of edits, each on one dimension.

The official rule is the one of SpatialReward's evaluation (its repository at aa47b2e): pairs without both results leave the
denominator. Its grouped table (object, appearance, scene, advanced) is not computed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.benchmarks.draw import IMAGE, IMAGES, MINIMUM_GAP, TEXT, TEXTS, Edit, Group, write_rows
from evaluation.benchmarks.official import PAPER_MODELS, Rows, mean, require_key, require_rows, result_score
from evaluation.benchmarks.samples import Candidate, Sample, text_of
from evaluation.benchmarks.strict import ScoredSample, all_finite
from evaluation.benchmarks.tables import load_tables
from spatial_edit_reward.errors import UserError

TITLE = "EditReward-Bench"
HEADLINE = ("average_accuracies", "overall")
PAPER = dict(zip(PAPER_MODELS, (0.705, 0.755, 0.722, 0.769, 0.690, 0.792, 0.803), strict=True))
DIMENSIONS = ("prompt_following", "consistency", "overall")


def read(source: str | None) -> list[Sample]:
    """The first output is the better one on the row's dimension; outputs come back by key."""
    columns = ("key", "instruction", "input_image", "output_images", "task_type", "dimension")
    [table] = load_tables(source, "EditScore/EditReward-Bench", ["train"], columns)
    samples = []
    for i, row in enumerate(table.rows):
        keys, dimension = row["key"], str(row["dimension"])
        if not isinstance(keys, list) or len(keys) != 2:
            raise UserError(f"{table.name}: row {i}: key must be two keys, got {keys!r}")
        pair = tuple(Candidate(str(key), n, partial(table.image, i, "output_images", n)) for n, key in enumerate(keys))
        instruction = text_of(row, "instruction", f"{table.name}: row {i}")
        sources = partial(table.images, i, "input_image")
        samples.append(
            Sample(f"{i}:{dimension}", str(row["task_type"]), instruction, pair, sources, dimension=dimension)
        )
    return samples


def official_score(samples: Sequence[ScoredSample]) -> dict[str, Any]:
    """Mean per (task type, dimension) over pairs with both results, then over the task types that have any.

    A dimension without a scored pair inside such a type counts 0.
    """
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        first, second = sample.scores
        if first is not None and second is not None:
            right[sample.category][sample.dimension].append(first > second)
    accuracies = {
        kind: {name: mean(by_dimension[name]) or 0.0 for name in DIMENSIONS}
        for kind, by_dimension in sorted(right.items())
    }
    return {
        "average_accuracies": {name: mean(of[name] for of in accuracies.values()) or 0.0 for name in DIMENSIONS},
        "accuracies": accuracies,
        "scored_pairs": sum(len(values) for of in right.values() for values in of.values()),
    }


def read_official_results(results: Mapping[str, Any], rows: Rows | None, file: Path) -> list[ScoredSample]:
    """key -> {scores: {dimension: score}}."""
    samples = []
    for i, row in enumerate(require_rows(rows, "editreward-bench")):
        where = f"benchmark row {i + 1}"
        keys, dimension = require_key(row, "key", where), str(require_key(row, "dimension", where))
        kind = str(require_key(row, "task_type", where))
        if not isinstance(keys, list) or len(keys) != 2:
            raise UserError(f"{where}: key must be a list of two, got {keys!r}")
        scores = tuple(result_score(results, str(key), dimension, file) for key in keys)
        samples.append(ScoredSample(str(i), (0, 1), scores, kind, dimension, complete=all_finite(scores)))
    return samples


def draw(samples: int, seed: int, side: int, folder: Path) -> None:
    """A pair for each dimension of a group on which two of its candidates are far enough apart."""
    columns = {"key": TEXTS, "instruction": TEXT, "input_image": IMAGE, "output_images": IMAGES}
    columns |= {"task_type": TEXT, "dimension": TEXT}
    values: dict[str, Callable[[Edit], float]] = {
        "prompt_following": lambda edit: edit.success / 25,
        "consistency": lambda edit: edit.kept / 25,
        "overall": lambda edit: edit.overall,
    }
    rng = np.random.default_rng(seed)

    def rows_of(group: Group) -> list[dict[str, Any]]:
        rows = []
        for dimension, value in values.items():
            pairs = [
                (a, b)
                for a, better in enumerate(group.edits)
                for b, worse in enumerate(group.edits)
                if value(better) - value(worse) >= MINIMUM_GAP
            ]
            if pairs:
                a, b = pairs[int(rng.integers(len(pairs)))]
                row = {"key": [f"{group.number}-{a}", f"{group.number}-{b}"], "instruction": group.instruction}
                row |= {"input_image": group.source, "output_images": [group.edits[a].image, group.edits[b].image]}
                rows.append(row | {"task_type": group.category, "dimension": dimension})
        return rows

    write_rows(folder / "data" / "train-00000-of-00001.parquet", columns, samples, seed, side, rows_of)
