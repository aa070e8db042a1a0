"""How long a row is: from the spec's pixels and prompts alone, or from the rows themselves where they are there."""

from __future__ import annotations

import io
import statistics
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset, Image, List
from PIL import Image as Picture
from tokenizers import Tokenizer

from data.recipe import DataRecipe
from data.rows import features
from pipeline.recipe import load_config
from spatial_edit_reward import Spec, load_spec, render
from spatial_edit_reward.chat import IMAGES_OF_TASK
from spatial_edit_reward.errors import UserError, one_line

SAMPLE = 512
# Characters of English text, and of JSON, for one token: an assumption, used where the base's tokenizer is not on this machine.
TEXT, JSON = 4.0, 3.0
# Of the chat template around a turn, and around each picture.
TURN, AROUND_PICTURE = 12, 2
INSTRUCTION = "Replace the red cup on the left with a blue one and leave the rest of the picture as it is."


@dataclass(frozen=True)
class Rows:
    """A split's rows in tokens of the model. `measured`: on the rows, not from the spec and `plan.yaml`."""

    count: int
    pictures: float  # mean of a row
    patches: int  # of the largest picture, before the merger
    picture_tokens: float  # mean of a row, after it
    prompt: float  # mean without pictures
    answer: float  # mean
    longest_prompt: int  # with pictures
    longest_answer: int
    measured: bool

    @property
    def tokens(self) -> float:
        """Mean of a row, pictures and answer included."""
        return self.picture_tokens + self.prompt + self.answer


def load_or_build_spec(data_dir: Path, recipe: Path) -> Spec:
    """The spec beside the rows, else the one that the recipe's `data.yaml` would write (its prompts may come from its data)."""
    if (data_dir / "verdict.json").exists():
        return load_spec(data_dir)
    made = load_config(recipe / "data.yaml", DataRecipe)
    return Spec(pixels=made.pixels, max_new_tokens=made.max_new_tokens)


def from_spec(spec: Spec, count: int, answer: int, patch: int) -> Rows:
    """Rows with pictures at the pixel limit, half of them `sc` and half `pq`, and answers of `answer` tokens."""
    tokens = spec.pixels.max // spec.pixels.multiple**2
    prompts = [len(spec.prompt(task, INSTRUCTION)) / TEXT + TURN for task in ("sc", "pq")]
    pictures = statistics.mean(IMAGES_OF_TASK.values())
    around = [AROUND_PICTURE * IMAGES_OF_TASK[task] for task in ("sc", "pq")]
    longest = max(IMAGES_OF_TASK.values()) * (tokens + AROUND_PICTURE) + max(prompts)
    return Rows(
        count,
        pictures,
        spec.pixels.max // patch**2,
        pictures * tokens,
        statistics.mean(prompts) + statistics.mean(around),
        answer,
        round(longest),
        min(2 * answer, spec.max_new_tokens),
        measured=False,
    )


def check_columns(file: Path) -> int:
    """The rows in `file`. Raises UserError for a file that is no Parquet, or lacks a column of canonical rows."""
    try:
        found = pq.read_metadata(file)
        columns = set(pq.read_schema(file).names)
    except Exception as error:  # pyarrow raises many kinds for a broken file
        raise UserError(f"{file}: not a Parquet file: {one_line(error)}") from None
    missing = [name for name in features() if name not in columns]
    if missing:
        raise UserError(f"{file}: no column {', '.join(missing)}; it has {', '.join(sorted(columns))}: run 'make data'")
    if not found.num_rows:
        raise UserError(f"{file}: it has no rows")
    return int(found.num_rows)


def from_file(file: Path, spec: Spec, patch: int, base: str) -> Rows:
    """Rows as they are in `file`: SAMPLE of them are looked at, evenly spread, with the base's tokenizer if that is local."""
    count = check_columns(file)
    rows = Dataset.from_parquet(str(file), features=features()).cast_column("images", List(Image(decode=False)))
    rows = rows.select(range(0, count, max(1, count // SAMPLE)))
    tokenizer = Path(base) / "tokenizer.json"
    known = Tokenizer.from_file(str(tokenizer)) if tokenizer.exists() else None

    def length(text: str, characters: float) -> float:
        return len(known.encode(text).ids) if known else len(text) / characters

    prompts, answers, pictures, patches, longest = [], [], [], [], 0.0
    for row in rows:
        areas = [area(image["bytes"], patch) for image in row["images"]]
        prompts.append(length(spec.prompt(row["task"], row["instruction"]), TEXT) + TURN + AROUND_PICTURE * len(areas))
        pictures.append(sum(areas) // (spec.pixels.multiple // patch) ** 2)
        patches += areas
        longest = max(longest, prompts[-1] + pictures[-1])
        if row["reference"]["reasoning"] is not None:
            answers.append(length(answer_of(row), JSON))
    return Rows(
        count,
        len(patches) / len(rows),
        max(patches),
        statistics.mean(pictures),
        statistics.mean(prompts),
        statistics.mean(answers or [spec.max_new_tokens / 3]),
        round(longest),
        round(max(answers or [spec.max_new_tokens])),
        measured=True,
    )


def answer_of(row: dict) -> str:
    """The verdict that the row's reference renders to; without a region known, as for an empty list."""
    reference = {**row["reference"], "edit_region": row["reference"]["edit_region"] or []}
    return render(row["task"], reference)


def area(content: bytes, patch: int) -> int:
    """Patches of the picture with these bytes; only its header is read."""
    with Picture.open(io.BytesIO(content)) as opened:
        return (opened.width // patch) * (opened.height // patch)
