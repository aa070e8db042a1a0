"""The canonical row: its features, its checks, and the chat messages that are made of it, at this one place.

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

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, List, Value

from spatial_edit_reward import TASKS, Spec, Task
from spatial_edit_reward.chat import IMAGES_OF_TASK, completion_messages, prompt_messages
from spatial_edit_reward.errors import UserError

REGION = {"id": Value("int32"), "label": Value("string"), "bbox_2d": List(Value("float32"), length=4)}
FEATURES = Features(
    {
        "id": Value("string"),
        "task": Value("string"),
        "instruction": Value("string"),
        "images": List(Image()),
        "reference": {
            "edit_region": List(REGION),
            "score": List(Value("float32"), length=2),
            "reasoning": Value("string"),
        },
        "group": Value("string"),
        "source": Value("string"),
    }
)


def fault(row: Mapping[str, Any], spec: Spec) -> str | None:
    """What is wrong with a canonical row, in words, or None. Looks at no pixel, only at the number of images."""
    if row["task"] not in TASKS:
        return f"task {row['task']!r} is not one of {', '.join(TASKS)}"
    if len(row["images"]) != IMAGES_OF_TASK[row["task"]]:
        return f"{len(row['images'])} images where {row['task']} needs {IMAGES_OF_TASK[row['task']]}"
    low, high = spec.score_range
    reference = row["reference"]
    if len(reference["score"]) != 2 or not all(low <= score <= high for score in reference["score"]):
        return f"score {reference['score']} is not two numbers in {low:g}..{high:g}"
    for place, region in enumerate(reference["edit_region"] or ()):
        box = region["bbox_2d"]
        if region["id"] != place:
            return f"region {place} has id {region['id']}: ids count from 0"
        if len(box) != 4 or not (0 <= box[0] < box[2] <= 1000 and 0 <= box[1] < box[3] <= 1000):
            return f"region {place} has box {box}: expected x1 < x2, y1 < y2, all in 0..1000"
    return None


def load_rows(file: Path, spec: Spec) -> Dataset:
    """The canonical rows of a Parquet file, images decoded when read. Raises UserError naming the first bad row."""
    try:
        rows = Dataset.from_parquet(str(file), features=FEATURES)
    except Exception as error:  # datasets raises many kinds for a broken or foreign file
        raise UserError(f"{file}: not a Parquet file of canonical rows: {' '.join(str(error).split())[:200]}") from None
    bare = rows.cast_column("images", List(Image(decode=False)))
    for row in bare:
        wrong = fault(row, spec)
        if wrong:
            raise UserError(f"{file}: row {row['id']!r}: {wrong}")
    return rows


def for_training(rows: Dataset, spec: Spec, completions: bool) -> Dataset:
    """Canonical rows with a `prompt` column, and with a `completion` one if asked for: what TRL's trainers take.

    Raises UserError where a row's reference cannot be written as a completion.
    """

    def messages(identity: str, task: Task, instruction: str, reference: Mapping[str, Any]) -> dict[str, Any]:
        prompt = prompt_messages(task, instruction, spec)
        if not completions:
            return {"prompt": prompt}
        try:
            completion = completion_messages(task, reference)
        except ValueError as error:
            raise UserError(f"row {identity!r} cannot be trained on: {error}") from None
        return {"prompt": prompt, "completion": completion}

    columns = ["id", "task", "instruction", "reference"]
    return rows.map(messages, input_columns=columns, desc="prompts", keep_in_memory=True)
