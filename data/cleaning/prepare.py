"""One public row -> one canonical row with encoded images, or the error that drops it. Runs in the pool's processes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
from PIL import Image
from pyarrow import parquet
from tokenizers import Tokenizer

from data.cleaning.box_format import DEFAULT, BoxCounts, Size
from data.cleaning.fixer import RowError, RowFixer
from data.cleaning.verdicts import read_scores, read_verdict
from data.hashes import Benchmark, pixel_hash
from data.readers.parts import Slice
from data.readers.raw import ImageSource, Raw
from data.recipe import DataRecipe, Split
from data.templates import PromptTemplate
from spatial_edit_reward import Spec, Task, render
from spatial_edit_reward.images import FORMATS, ORIENTATION, ImageError, encode, fit, read_image
from spatial_edit_reward.schema import SPECIAL_TOKEN, ScoreRange, plain_text

TASK_OF_IMAGES: dict[int, Task] = {2: "sc", 1: "pq"}


@dataclass(frozen=True)
class Context:
    """What every row is prepared with; sent to each process once."""

    recipe: DataRecipe
    spec: Spec
    schema: pyarrow.Schema
    benchmark: Benchmark | None = None
    templates: Mapping[tuple[str, Task], PromptTemplate] = field(default_factory=dict)


class LoadedImage(NamedTuple):
    """A fitted image as its row stores it: bytes, (width, height) in pixels, pixel hash, overlap with a benchmark."""

    content: bytes
    size: tuple[int, int]
    as_it_was: bool
    pixel_hash: bytes
    overlap: str | None


class RowText(NamedTuple):
    """A row without its images; `explained`: whether the source's template made its prompt, None without either."""

    task: Task
    instruction: str | None
    explained: bool | None
    reference: dict[str, Any] | None


@dataclass(slots=True)
class RowRecord:
    """What became of one public row; for a row that is kept also what splits and report need of it, without its pixels.

    So has a row whose only error is that it has no answer (`no_verdict`): `data.build` looks for one that has.

    Args:
        fixed: Kind -> detail of what was fixed in it.
        explained: Whether the source's template made its prompt; None without either.
        words: A digest of its instruction; None without one.
        has_verdict: It has a complete verdict, which stage 1 can imitate.
        original_images: How many of its images kept their bytes.
        tokens: Of prompt, images and completion; `completion_tokens`: of the completion alone.
        source_index: Of its source in the list of all.
        stored: It is in its chunk's shard, dropped later or not.
    """

    location: str
    id: str
    source: str
    error: RowError | None = None
    fixed: Mapping[str, str] = field(default_factory=dict)
    explained: bool | None = None
    task: Task = "sc"
    words: bytes | None = None
    group: str | None = None
    image_hashes: tuple[bytes, ...] = ()
    has_verdict: bool = False
    sizes: tuple[tuple[int, int], ...] = ()
    original_images: int = 0
    score: tuple[float, ...] = ()
    boxes: tuple[tuple[float, ...], ...] | None = None
    tokens: int = 0
    completion_tokens: int = 0
    source_index: int = 0
    stored: bool = False
    split: Split | None = None


def image_task(raw: Raw) -> Task:
    """The task of a row with so many images. Raises RowError where the row itself names another one."""
    if not raw.images:
        raise RowError("no_images", "no image in `images`, `image` or its messages")
    if len(raw.images) not in TASK_OF_IMAGES:
        raise RowError("image_count", f"{len(raw.images)} images")
    task = TASK_OF_IMAGES[len(raw.images)]
    if raw.task not in (None, task):
        raise RowError("task_disagrees", f"its task is {raw.task}, and it has {len(raw.images)} images")
    return task


def check_text(texts: Sequence[str | None]) -> None:
    """Raises RowError where one of `texts` cannot be stored: JSON may hold half of a character (a lone surrogate)."""
    try:
        "".join(text or "" for text in texts).encode()
    except UnicodeEncodeError as error:
        raise RowError("not_a_row", f"its text is no Unicode: {error.reason}") from None


def as_plain_text(text: str | None, owner: str, fixer: RowFixer) -> str | None:
    """`text` with special tokens written as plain text where the policy fixes that. Raises RowError."""
    if text and (token := SPECIAL_TOKEN.search(text)):
        fixer.fix("special_token", f"{owner} holds {token.group()}")
        return plain_text(text)
    return text


def group_name(raw: Raw, source: str, instruction: str | None, image_hashes: Sequence[bytes]) -> str | None:
    """The row's own group, or one made of an `sc` row's source image and instruction; a `pq` row gets its edit's later."""
    if raw.group is not None:
        return f"{source}-{raw.group}"
    if len(image_hashes) == 1:
        return None
    return f"{source}-{digest(image_hashes[0], instruction or '').hex()}"


def digest(*parts: str | bytes) -> bytes:
    """8 bytes that are the same for the same parts."""
    joined = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    return hashlib.blake2b(joined, digest_size=8).digest()


def row_id(raw: Raw, source: str, task: Task) -> str:
    """SOURCE-ID-TASK: unique over sources, and the two rows of one edit differ in the task alone."""
    name = f"{source}-{raw.id.removesuffix(f'-{task}')}-{task}"
    return name.encode(errors="replace").decode()  # of half a character, for the report


def open_image(source: ImageSource) -> tuple[Image.Image, bytes, bool]:
    """`read_image` of a file, a slice of tar parts or a file's content. Raises RowError."""
    try:
        return read_image(source.read() if isinstance(source, Slice) else source)
    except ImageError as error:
        raise RowError(error.kind, error.detail) from None


class Preparer:
    """Prepares public rows, one after the other; each process of the pool has one."""

    def __init__(self, context: Context) -> None:
        self.context, self.recipe, self.spec = context, context.recipe, context.spec
        folder = self.recipe.tokenizer
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json")) if folder else None
        # A group's rows follow one another and share images.
        self.load_image = lru_cache(maxsize=16)(self._load_image)
        self.image_size: Callable[[ImageSource], Size] = lru_cache(maxsize=16)(self._image_size)
        self.box_formats = {source.name: source.box_format for source in self.recipe.sources}
        self.box_counts: dict[str, BoxCounts] = {}

    def read_text(self, raw: Raw, source: str, score_range: ScoreRange, fixer: RowFixer) -> RowText:
        """All of a public row but its images; no reference where it has no answer and no scores. Raises RowError."""
        if raw.error:
            raise raw.error
        task = image_task(raw)
        instruction, explained = self.read_instruction(raw, source, task)
        instruction = as_plain_text(instruction, "the instruction", fixer)
        reference = self.read_reference(raw, task, score_range, fixer)
        regions = (reference and reference["edit_region"]) or ()
        if reference:
            reference["reasoning"] = as_plain_text(reference["reasoning"], "the reasoning", fixer)
        for region in regions:
            region["label"] = as_plain_text(region["label"], "a label", fixer)
        texts = [reference and reference["reasoning"], *(region["label"] for region in regions)]
        check_text([raw.id, raw.group, instruction, *texts])
        return RowText(task, instruction, explained, reference)

    def fixer(self, raw: Raw, source: str) -> RowFixer:
        """What fixes a row of `source`, and notes its boxes."""

        def image_size() -> Size:
            return self.image_size(raw.images[-1])

        return RowFixer(self.recipe.policy, self.recipe.box_tolerance, self.box_formats.get(source), image_size)

    def count_boxes(self, raw: Raw, source: str, fixer: RowFixer) -> None:
        """Adds the boxes of a row to the counts of its source."""
        if fixer.raw_boxes:
            counts = self.box_counts.setdefault(source, BoxCounts(fixer.declared_format or DEFAULT))
            for box, size in fixer.raw_boxes:
                counts.add(box, size, raw.location)

    def prepare(self, raw: Raw, source: str, score_range: ScoreRange) -> tuple[dict[str, Any] | None, RowRecord]:
        """(canonical row, its record) of a public row of `source`, whose scores are in `score_range`. Raises RowError.

        No row where there is no answer, and then its record has the error.
        """
        fixer = self.fixer(raw, source)
        try:
            task, instruction, explained, reference = self.read_text(raw, source, score_range, fixer)
        finally:
            self.count_boxes(raw, source, fixer)
        images = [self.load_image(image) for image in raw.images]
        for image in images:
            if image.overlap:
                raise RowError("benchmark_overlap", image.overlap)
        image_hashes = tuple(image.pixel_hash for image in images)
        name, group = row_id(raw, source, task), group_name(raw, source, instruction, image_hashes)
        record = RowRecord(
            location=raw.location,
            id=name,
            source=source,
            fixed=fixer.fixed,
            explained=explained,
            task=task,
            words=digest(" ".join(instruction.split())) if instruction else None,
            group=group,
            image_hashes=image_hashes,
        )
        if reference is None:
            record.error = RowError("no_verdict", "it has no answer and no scores")
            return None, record
        row = {
            "id": name,
            "task": task,
            "instruction": instruction,
            "images": [{"bytes": image.content, "path": None} for image in images],
            "reference": reference,
            "group": group,
            "source": source,
        }
        regions = reference["edit_region"]
        record.has_verdict = reference["reasoning"] is not None and (task == "pq" or regions is not None)
        record.sizes = tuple(image.size for image in images)
        record.original_images = sum(image.as_it_was for image in images)
        record.score = tuple(reference["score"])
        record.boxes = None if regions is None else tuple(tuple(region["bbox_2d"]) for region in regions)
        record.stored = True
        self.count_tokens(record, instruction, reference)
        return row, record

    def read_instruction(self, raw: Raw, source: str, task: Task) -> tuple[str | None, bool | None]:
        """(the row's own instruction or the one in its prompt, whether the template explains its prompt). Raises RowError.

        A `pq` row may have none.
        """
        template = self.context.templates.get((source, task))
        explained = None if raw.prompt is None else template is not None and template.explains(raw.prompt)
        recovered = template.instruction(raw.prompt) if template and raw.prompt else None
        instruction = (raw.instruction or recovered or "").strip() or None
        if instruction is None and task == "sc":
            raise RowError("no_instruction", f"the prompt is {(raw.prompt or '')[:60]!r}")
        return instruction, explained

    def read_reference(self, raw: Raw, task: Task, score_range: ScoreRange, fixer: RowFixer) -> dict[str, Any] | None:
        """The row's canonical reference, of its verdict or of scores alone; None without either. Raises RowError."""
        to_range = self.spec.score_range
        if raw.verdict is not None:
            return read_verdict(raw.verdict, task, raw.regions_known, score_range, to_range, fixer)
        if raw.score is None:
            return None
        return {"edit_region": None, "score": read_scores(raw.score, score_range, to_range, fixer), "reasoning": None}

    def _image_size(self, source: ImageSource) -> Size:
        """(width, height) of an image's file, upright, from its first bytes. Raises RowError."""
        file = source.read() if isinstance(source, Slice) else source
        try:
            with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as opened:
                turned = Image.Image.getexif(opened).get(ORIENTATION, 1) >= 5  # a PNG's own would decode all of it
                return opened.size[::-1] if turned else opened.size
        except Exception:  # the reader says why
            return open_image(source)[0].size

    def _load_image(self, source: ImageSource) -> LoadedImage:
        """The fitted image of a file, a slice of tar parts or a file's content. Raises RowError."""
        opened, content, as_it_is = open_image(source)
        image = fit(opened, self.spec.pixels)
        as_it_was = as_it_is and image.size == opened.size
        digest = pixel_hash(image)
        overlap = self.context.benchmark.overlap(image, digest) if self.context.benchmark else None
        stored = content if as_it_was else encode(image, self.recipe.image_format)
        return LoadedImage(stored, image.size, as_it_was, digest, overlap)

    def count_tokens(self, record: RowRecord, instruction: str | None, reference: Mapping[str, Any]) -> None:
        """Sets the record's tokens; without the recipe's `tokenizer` those of the images alone are known."""
        record.tokens = sum(width * height // self.spec.pixels.multiple**2 for width, height in record.sizes)
        if self.tokenizer is None:
            return
        if record.has_verdict:
            record.completion_tokens = len(self.tokenizer.encode(render(record.task, reference)).ids)
        prompt = self.spec.prompt(record.task, instruction)
        record.tokens += len(self.tokenizer.encode(prompt).ids) + record.completion_tokens


_preparer: Preparer  # of this process, set once by the pool's initializer


def start(context: Context) -> None:
    """Makes this process ready for `prepare_chunk`."""
    global _preparer
    _preparer = Preparer(context)


def prepare_chunk(
    chunk: Sequence[Raw] | Callable[[], Sequence[Raw]], source: str, score_range: ScoreRange, shard: Path
) -> tuple[list[RowRecord], BoxCounts | None]:
    """The record of each row of `chunk`, in order, and what its boxes are; kept rows are written to `shard`, a Parquet file."""
    rows, records = [], []
    _preparer.box_counts.clear()
    for raw in chunk() if callable(chunk) else chunk:
        try:
            row, record = _preparer.prepare(raw, source, score_range)
            rows += [row] if row else []
        except RowError as error:
            task = TASK_OF_IMAGES.get(len(raw.images), "sc")
            record = RowRecord(raw.location, row_id(raw, source, task), source, error=error, task=task)
        records.append(record)
    if rows:
        table = pyarrow.Table.from_pylist(rows, schema=_preparer.context.schema)
        parquet.write_table(table, shard, compression="none", use_dictionary=False, write_statistics=False)
    return records, _preparer.box_counts.get(source)
