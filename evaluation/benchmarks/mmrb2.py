"""MMRB2's edit task (huggingface.co/datasets/rl-research/multimodal-rewardbench-2): two responses, one or more source images.

Columns beyond `pair_id`, `prompt_text`, `prompt_images` and `chosen` are its own converter's. The official rule is the one of
SpatialReward's evaluation (its repository at aa47b2e); MMRB2's own, which judges a pair in both orders, is not computed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.synthetic.generate import group_rows
from evaluation.benchmarks.draw import IMAGES, TEXT, Group, ranked, write_rows
from evaluation.benchmarks.official import PAPER_MODELS, Rows, mean, require_key, require_rows, result_score
from evaluation.benchmarks.samples import Candidate, Sample, text_of
from evaluation.benchmarks.strict import ScoredSample, all_finite
from evaluation.benchmarks.tables import load_tables
from spatial_edit_reward.errors import UserError

TITLE = "MMRB2"
HEADLINE = ("overall_accuracy",)
PAPER = dict(zip(PAPER_MODELS, (0.535, 0.619, 0.534, 0.621, 0.570, 0.657, 0.661), strict=True))
PLACEHOLDER = re.compile(r"<image_(\d+)>")
AT_AN_END = re.compile(rf"^(\s*{PLACEHOLDER.pattern})+|({PLACEHOLDER.pattern}\s*)+$")


def read(source: str | None) -> list[Sample]:
    """Placeholders at the ends of a prompt go, since the images come first anyway; inside they become "image N"."""
    columns = ("pair_id", "prompt_text", "prompt_images", "response_a_images", "response_b_images", "chosen")
    splits = ["test" if source is None else "edit"]
    [table] = load_tables(source, "rl-research/multimodal-rewardbench-2", splits, columns, config="edit")
    samples = []
    for i, row in enumerate(table.rows):
        name = str(row["pair_id"])
        chosen = _chosen(row["chosen"], f"{table.name}: {name}")
        edits = tuple(
            Candidate(f"{name}_{letter}", int(letter != chosen), partial(table.image, i, f"response_{column}_images"))
            for letter, column in (("A", "a"), ("B", "b"))
        )
        text = AT_AN_END.sub("", text_of(row, "prompt_text", f"{table.name}: {name}").strip()).strip()
        text = PLACEHOLDER.sub(lambda match: f"image {match[1]}", text)
        category, sources = str(row.get("prompt_source") or "unknown"), partial(table.images, i, "prompt_images")
        samples.append(Sample(name, category, text, edits, sources, row["prompt_images"], extra=chosen))
    return samples


def _chosen(value: Any, where: str) -> str:
    if str(value).upper() not in ("A", "B"):
        raise UserError(f"{where}: chosen must be A or B, got {value!r}")
    return str(value).upper()


def official_score(samples: Sequence[ScoredSample]) -> dict[str, Any]:
    """Right when the chosen response scores higher, ties wrong, pairs without both results skipped; micro mean."""
    right: list[tuple[bool, ScoredSample]] = []
    for sample in samples:
        chosen, other = sample.scores if sample.ranks == (0, 1) else sample.scores[::-1]
        if chosen is not None and other is not None:
            right.append((chosen > other, sample))
    by_source, by_images = {sample.category for _, sample in right}, {sample.sources for _, sample in right}
    return {
        "overall_accuracy": mean(value for value, _ in right) or 0.0,
        "total_pairs": len(right),
        "correct_predictions": sum(value for value, _ in right),
        "missing_pairs": len(samples) - len(right),
        "per_source_accuracy": {
            name: mean(value for value, sample in right if sample.category == name) for name in sorted(by_source)
        },
        "per_image_count_accuracy": {
            str(count): mean(value for value, sample in right if sample.sources == count) for count in sorted(by_images)
        },
    }


def read_official_results(results: Mapping[str, Any], rows: Rows | None, file: Path) -> list[ScoredSample]:
    """Pair id with _A or _B -> {scores: {overall: score}}."""
    samples = []
    for i, row in enumerate(require_rows(rows, "mmrb2"), 1):
        where = f"benchmark row {i}"
        name = str(row["pair_id"] if "pair_id" in row else require_key(row, "id", where))
        ranks = (0, 1) if _chosen(require_key(row, "chosen", where), where) == "A" else (1, 0)
        scores = tuple(result_score(results, f"{name}_{letter}", "overall", file) for letter in "AB")
        images = row.get("prompt_images") or [part for part in row.get("prompt_content", ()) if part[0] == "image"]
        category = str(row.get("prompt_source") or "unknown")
        complete = all_finite(scores)
        samples.append(ScoredSample(name, ranks, scores, category, sources=len(images), complete=complete))
    return samples


def draw(samples: int, seed: int, side: int, folder: Path) -> None:
    """`edit/test-...`: one row in five has a second source image."""
    columns = dict.fromkeys(
        ("pair_id", "prompt_text", "prompt_source", "response_a_text", "response_b_text", "chosen"), TEXT
    )
    columns |= dict.fromkeys(("prompt_images", "response_a_images", "response_b_images"), IMAGES)
    rng = np.random.default_rng([seed, 2])

    def rows_of(group: Group) -> list[dict[str, Any]]:
        edits = ranked(group, 2, rng)
        if edits is None:
            return []
        several = group.number % 5 == 0
        sources = [group.source]
        if several:
            sources.append(group_rows(seed + 1000, group.number, side)[0]["images"][0])
        first = bool(rng.random() < 0.5)
        a, b = (edits[0], edits[1]) if first else (edits[1], edits[0])
        placeholders = "".join(f"<image_{number}>" for number in range(1, len(sources) + 1))
        row: dict[str, Any] = {"pair_id": f"edit-{group.number}", "prompt_text": f"{placeholders}\n{group.instruction}"}
        row |= {"prompt_source": "several" if several else "drawn", "chosen": "A" if first else "B"}
        row |= {"prompt_images": sources, "response_a_text": "<image_1>", "response_a_images": [a.image]}
        return [row | {"response_b_text": "<image_1>", "response_b_images": [b.image]}]

    write_rows(folder / "edit" / "test-00000-of-00001.parquet", columns, samples, seed + 20, side, rows_of)
