"""The canonical row: its features, its checks, and the prompts and completions that are made of it.

id         str, unique
task       "sc" | "pq"
instruction str
images     list of Image, source first (`pq`: the edited image alone)
reference  edit_region: list of {id, label, bbox_2d} ([]: nothing was edited, null: unknown)
           score: 2 floats; reasoning: str | null
group      str | null, shared by the candidates of one source and instruction
source     the dataset it came from
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spatial_edit_reward import TASKS, Spec, Task
from spatial_edit_reward.boxes import BOX_SCALE, valid_box
from spatial_edit_reward.chat import IMAGES_OF_TASK, completion_messages, prompt_messages
from spatial_edit_reward.errors import UserError, one_line

if TYPE_CHECKING:
    from datasets import Dataset, Features


@cache
def features() -> Features:
    """The columns of canonical rows, as `datasets` has them (a second to import)."""
    from datasets import Features, Image, List, Value

    region = {"id": Value("int32"), "label": Value("string"), "bbox_2d": List(Value("float32"), length=4)}
    return Features(
        {
            "id": Value("string"),
            "task": Value("string"),
            "instruction": Value("string"),
            "images": List(Image()),
            "reference": {
                "edit_region": List(region),
                "score": List(Value("float32"), length=2),
                "reasoning": Value("string"),
            },
            "group": Value("string"),
            "source": Value("string"),
        }
    )


def row_error(row: Mapping[str, Any], spec: Spec) -> str | None:
    """What is wrong with a canonical row, in words, or None. Of the images only their number counts."""
    if row["task"] not in TASKS:
        return f"task {row['task']!r} is not one of {', '.join(TASKS)}"
    if len(row["images"]) != IMAGES_OF_TASK[row["task"]]:
        return f"{len(row['images'])} images where {row['task']} needs {IMAGES_OF_TASK[row['task']]}"
    low, high = spec.score_range
    reference = row["reference"]
    if len(reference["score"]) != 2 or not all(low <= score <= high for score in reference["score"]):
        return f"score {reference['score']} is not two numbers in {low:g}..{high:g}"
    for index, region in enumerate(reference["edit_region"] or ()):
        if region["id"] != index:
            return f"region {index} has id {region['id']}: ids count from 0"
        if valid_box(region) is None:
            return f"region {index} has box {region['bbox_2d']}: expected x1 < x2, y1 < y2, all in 0..{BOX_SCALE}"
    return None


def load_rows(file: Path, spec: Spec) -> Dataset:
    """The canonical rows of a Parquet file, images decoded when read. Raises UserError naming the first bad row."""
    from datasets import Dataset, Image, List

    try:
        rows = Dataset.from_parquet(str(file), features=features())
    except Exception as error:  # datasets raises many kinds for a broken file or one of another shape
        raise UserError(f"{file}: not a Parquet file of canonical rows: {one_line(error)}") from None
    for row in rows.cast_column("images", List(Image(decode=False))):
        reason = row_error(row, spec)
        if reason:
            raise UserError(f"{file}: row {row['id']!r}: {reason}")
    return rows


def as_decimals(reference: Mapping[str, Any]) -> dict[str, Any]:
    """The reference with each number as the shortest decimal of its float32: 4.8, where the row holds 4.800000190734863."""

    def shortest(numbers: Sequence[float]) -> list[float]:
        return [float(str(np.float32(number))) for number in numbers]

    regions = reference["edit_region"]
    regions = regions and [{**region, "bbox_2d": shortest(region["bbox_2d"])} for region in regions]
    return {**reference, "edit_region": regions, "score": shortest(reference["score"])}


def for_training(rows: Dataset, spec: Spec, completions: bool) -> Dataset:
    """Canonical rows with a `prompt` column, and with a `completion` one if `completions`: what TRL's trainers take.

    Raises UserError where a row's reference cannot be written as a completion.
    """

    def messages(row_id: str, task: Task, instruction: str, reference: Mapping[str, Any]) -> dict[str, Any]:
        prompt = prompt_messages(task, instruction, spec)
        if not completions:
            return {"prompt": prompt}
        try:
            completion = completion_messages(task, as_decimals(reference))
        except ValueError as error:
            raise UserError(f"row {row_id!r} cannot be trained on: {error}") from None
        return {"prompt": prompt, "completion": completion}

    columns = ["id", "task", "instruction", "reference"]
    return rows.map(messages, input_columns=columns, desc="prompts", keep_in_memory=True)
