"""The canonical row: its features, its checks, and the prompts and completions that are made of it.

id         str, unique
task       "sc" | "pq"
instruction str; null for a `pq` row without one
images     list of Image, source first (`pq`: the edited image alone)
reference  edit_region: list of {id, label, bbox_2d} ([]: nothing was edited, null: unknown)
           score: 2 floats; reasoning: str | null
group      str | null, shared by the candidates of one source and instruction
source     the dataset it came from
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.stored_rows import StoredRows
from spatial_edit_reward import TASKS, Spec
from spatial_edit_reward.boxes import BOX_SCALE, valid_box
from spatial_edit_reward.chat import IMAGES_OF_TASK, completion_messages, prompt_messages
from spatial_edit_reward.errors import UserError

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
    if row["task"] == "sc" and row["instruction"] is None:
        return "an sc row has no instruction"
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


def load_rows(file: Path, spec: Spec) -> StoredRows:
    """The canonical rows of a Parquet file, each read when it is asked for. Raises UserError naming the first bad row."""
    rows = StoredRows(file, features().arrow_schema)
    for row in rows.texts():
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


COLUMNS = ("id", "task", "instruction", "images", "reference")  # that trainers get, rewards among them


def for_training(rows: StoredRows, spec: Spec, completions: bool) -> Dataset:
    """What TRL's trainers take: a `prompt` for each canonical row, and a `completion` if `completions`, made as it is read.

    A table of numbers with the name of the one column that every trainer keeps. Raises UserError where a row's reference cannot
    be written as a completion.
    """
    from datasets import Dataset

    for row in rows.texts() if completions else ():
        messages(row, spec, completions)
    return Dataset.from_dict({"images": range(len(rows))}).with_transform(
        partial(training_batch, rows=rows, spec=spec, completions=completions)
    )


def training_batch(batch: Mapping[str, list[int]], rows: StoredRows, spec: Spec, completions: bool) -> dict[str, Any]:
    """The columns of the rows whose numbers `batch` holds."""
    chosen = [rows[index] for index in batch["images"]]
    columns: dict[str, Any] = {name: [row[name] for row in chosen] for name in COLUMNS}
    for row in chosen:
        for name, chat in messages(row, spec, completions).items():
            columns.setdefault(name, []).append(chat)
    return columns


def messages(row: Mapping[str, Any], spec: Spec, completion: bool) -> dict[str, Any]:
    """The `prompt` of a row, and with `completion` that too. Raises UserError where its reference is no complete verdict."""
    chats = {"prompt": prompt_messages(row["task"], row["instruction"], spec)}
    try:
        if completion:
            chats["completion"] = completion_messages(row["task"], as_decimals(row["reference"]))
    except ValueError as error:
        raise UserError(f"row {row['id']!r} cannot be trained on: {error}") from None
    return chats
