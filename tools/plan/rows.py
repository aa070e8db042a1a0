"""How long a row is: from the spec's pixels and prompts alone, or from the rows themselves where they are there."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import PIL.Image
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from data.recipe import DataRecipe
from data.rows import features
from data.stored_rows import StoredRows
from pipeline.recipe import load_config
from spatial_edit_reward import Spec, load_spec, render
from spatial_edit_reward.chat import IMAGES_OF_TASK
from spatial_edit_reward.errors import UserError, one_line

SAMPLE = 512
# Characters of English text, and of JSON, for one token: an assumption, used where the base's tokenizer is not on this machine.
TEXT, JSON = 4.0, 3.0
# Of the chat template around a turn, and around each image.
TURN, AROUND_IMAGE = 12, 2
INSTRUCTION = "Replace the red cup on the left with a blue one and leave the rest of the picture as it is."


@dataclass(frozen=True)
class Rows:
    """A split's rows in tokens of the model. `measured`: on the rows themselves, not from the spec and `plan.yaml`."""

    count: int
    images: float  # mean of a row
    patches: int  # of the largest image, before the merger
    image_tokens: float  # mean of a row, after it
    prompt: float  # mean without images
    answer: float  # mean
    longest_prompt: int  # with images
    longest_answer: int
    measured: bool

    @property
    def tokens(self) -> float:
        """Mean of a row, images and answer included."""
        return self.image_tokens + self.prompt + self.answer


def load_or_build_spec(data_dir: Path, recipe: Path) -> Spec:
    """The spec beside the rows, else the one that the recipe's `data.yaml` would write (its prompts may come from its data)."""
    if (data_dir / "verdict.json").exists():
        return load_spec(data_dir)
    made = load_config(recipe / "data.yaml", DataRecipe)
    return Spec(pixels=made.pixels, max_new_tokens=made.max_new_tokens)


def text_length(base: str) -> Callable[[str, float], float]:
    """(text, characters for one token) -> tokens: counted where the base's tokenizer is on this machine, else assumed."""
    file = Path(base) / "tokenizer.json"
    known = None
    if file.exists():
        known = Tokenizer.from_file(str(file))
    elif "Qwen3-VL" in base and find_spec("dashscope"):
        from pipeline.qwen import qwen_tokenizer

        known = qwen_tokenizer().backend_tokenizer
    return lambda text, characters: len(known.encode(text).ids) if known else len(text) / characters


def from_spec(spec: Spec, count: int, answer: float, patch: int, base: str = "") -> Rows:
    """Rows with images at the pixel limit, half of them `sc` and half `pq`, and answers of `answer` tokens."""
    tokens, length = spec.pixels.max // spec.pixels.multiple**2, text_length(base)
    prompts = [length(spec.prompt(task, INSTRUCTION), TEXT) + TURN for task in ("sc", "pq")]
    images = statistics.mean(IMAGES_OF_TASK.values())
    around = [AROUND_IMAGE * IMAGES_OF_TASK[task] for task in ("sc", "pq")]
    longest = max(IMAGES_OF_TASK.values()) * (tokens + AROUND_IMAGE) + max(prompts)
    return Rows(
        count,
        images,
        spec.pixels.max // patch**2,
        images * tokens,
        statistics.mean(prompts) + statistics.mean(around),
        answer,
        round(longest),
        min(round(2 * answer), spec.max_new_tokens),
        measured=False,
    )


def check_columns(file: Path) -> int:
    """The rows in `file`. Raises UserError for a file that is no Parquet, or lacks a column of canonical rows."""
    try:
        count = pq.read_metadata(file).num_rows
        columns = set(pq.read_schema(file).names)
    except Exception as error:  # pyarrow raises many kinds for a broken file
        raise UserError(f"{file}: not a Parquet file: {one_line(error)}") from None
    missing = [name for name in features() if name not in columns]
    if missing:
        raise UserError(f"{file}: no column {', '.join(missing)}; it has {', '.join(sorted(columns))}: run 'make data'")
    if not count:
        raise UserError(f"{file}: it has no rows")
    return int(count)


def from_file(file: Path, spec: Spec, patch: int, base: str) -> Rows:
    """Rows as they are in `file`: SAMPLE of them are measured, evenly spread, with the base's tokenizer if that is local."""
    count = check_columns(file)
    rows = StoredRows(file, features().arrow_schema)
    sample = range(0, count, max(1, count // SAMPLE))
    length = text_length(base)
    prompts, answers, images, patches, longest = [], [], [], [], 0.0
    for row in map(rows.encoded, sample):
        areas = [area(image["bytes"], patch) for image in row["images"]]
        prompts.append(length(spec.prompt(row["task"], row["instruction"]), TEXT) + TURN + AROUND_IMAGE * len(areas))
        images.append(sum(areas) // (spec.pixels.multiple // patch) ** 2)
        patches += areas
        longest = max(longest, prompts[-1] + images[-1])
        if row["reference"]["reasoning"] is not None:
            answers.append(length(answer_of(row), JSON))
    return Rows(
        count,
        len(patches) / len(sample),
        max(patches),
        statistics.mean(images),
        statistics.mean(prompts),
        statistics.mean(answers or [spec.max_new_tokens / 3]),
        round(longest),
        round(max(answers or [spec.max_new_tokens])),
        measured=True,
    )


def mean_answer(file: Path, spec: Spec, base: str) -> float | None:
    """Mean tokens of the verdicts in `file`, SAMPLE of them; None where there is no file, or no verdict in it."""
    if not file.exists():
        return None
    rows, length = StoredRows(file, features().arrow_schema), text_length(base)
    texts = (answer_of(row) for row in islice(rows.texts(), SAMPLE) if row["reference"]["reasoning"] is not None)
    lengths = [length(text, JSON) for text in texts]
    return statistics.mean(lengths) if lengths else None


def answer_of(row: dict) -> str:
    """The verdict that the row's reference renders to; without a region known, as for an empty list."""
    reference = {**row["reference"], "edit_region": row["reference"]["edit_region"] or []}
    return render(row["task"], reference)


def area(content: bytes, patch: int) -> int:
    """Patches of the image with these bytes; only its header is read."""
    with PIL.Image.open(io.BytesIO(content)) as opened:
        return (opened.width // patch) * (opened.height // patch)
