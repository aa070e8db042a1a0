"""One public row -> one canonical row with encoded images, or the fault that drops it. Runs in the pool's processes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
from pyarrow import parquet
from tokenizers import Tokenizer

from data.cleaning.fixer import Policy, RowError, RowFixer
from data.cleaning.verdicts import read_scores, read_verdict
from data.hashes import Benchmark, pixel_hash
from data.readers.parts import Slice
from data.readers.raw import Picture, Raw
from data.templates import PromptTemplate
from spatial_edit_reward import Spec, Task, render
from spatial_edit_reward.images import ImageError, encode, fit, read_picture

TASK_OF_IMAGES: dict[int, Task] = {2: "sc", 1: "pq"}


@dataclass(frozen=True)
class Context:
    """What every row is prepared with; sent to each process once."""

    spec: Spec
    policy: dict[str, Policy]
    tolerance: float
    store: str
    benchmark: Benchmark | None
    tokenizer: Path | None
    schema: pyarrow.Schema
    templates: dict[tuple[str, Task], PromptTemplate] = field(default_factory=dict)


class Encoded(NamedTuple):
    """A fitted picture as its row stores it: bytes, (width, height) in pixels, pixel hash, overlap with a benchmark."""

    content: bytes
    size: tuple[int, int]
    kept_bytes: bool
    digest: bytes
    overlap: str | None


@dataclass(frozen=True)
class Outcome:
    """What became of one public row; for a row that is kept also what splits and report need of it, without its pixels.

    `whole`: it has a verdict that stage 1 can imitate. `explained`: whether the source's template made its prompt, None without
    either. `tokens`: of prompt, images and completion; `said`: of the completion.
    """

    place: str
    id: str
    source: str
    fault: RowError | None = None
    fixed: tuple[str, ...] = ()
    explained: bool | None = None
    task: Task = "sc"
    instruction: str = ""
    group: str | None = None
    digests: tuple[bytes, ...] = ()
    whole: bool = False
    sizes: tuple[tuple[int, int], ...] = ()
    kept_bytes: int = 0
    score: tuple[float, ...] = ()
    boxes: tuple[tuple[float, ...], ...] | None = None
    tokens: int = 0
    said: int = 0


class Worker:
    """A process's context, set once by the pool's initializer."""

    context: Context


def start(context: Context) -> None:
    Worker.context = context
    encoded.cache_clear()


# A group's rows follow one another and share pictures.
@lru_cache(maxsize=16)
def encoded(source: Picture) -> Encoded:
    """The fitted picture of a file, a slice of tar parts or a file's content. Raises RowError."""
    context = Worker.context
    try:
        opened, content, as_it_is = read_picture(source.read() if isinstance(source, Slice) else source)
    except ImageError as error:
        raise RowError(error.kind, error.detail) from None
    picture = fit(opened, context.spec.pixels)
    kept = as_it_is and picture.size == opened.size
    digest = pixel_hash(picture)
    overlap = context.benchmark.overlap(picture, digest) if context.benchmark else None
    return Encoded(content if kept else encode(picture, context.store), picture.size, kept, digest, overlap)


@lru_cache(maxsize=1)
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def task_of(raw: Raw) -> Task:
    """The task that the number of images says. Raises RowError where the row's own word is another one."""
    if not raw.images:
        raise RowError("no_images", "it names no image")
    if len(raw.images) not in TASK_OF_IMAGES:
        raise RowError("image_count", f"{len(raw.images)} images")
    task = TASK_OF_IMAGES[len(raw.images)]
    if raw.task not in (None, task):
        raise RowError("task_disagrees", f"it says {raw.task} and has {len(raw.images)} images")
    return task


def reference_of(raw: Raw, task: Task, given: tuple[float, float], fixer: RowFixer) -> dict[str, Any]:
    """The row's canonical reference. Raises RowError."""
    context = Worker.context
    wanted = context.spec.score_range
    if raw.verdict is not None:
        return read_verdict(raw.verdict, task, raw.regions_known, given, wanted, context.tolerance, fixer)
    if raw.score is None:
        raise RowError("no_verdict", "it has no answer and no scores")
    return {"edit_region": None, "score": read_scores(raw.score, given, wanted, fixer), "reasoning": None}


def group_of(raw: Raw, source: str, instruction: str, digests: Sequence[bytes]) -> str | None:
    """The row's own group, or one made of an `sc` row's source picture and instruction; a `pq` row gets its edit's later."""
    if raw.group is not None:
        return f"{source}-{raw.group}"
    if len(digests) == 1:
        return None
    made = hashlib.blake2b(digests[0] + instruction.encode(), digest_size=8).hexdigest()
    return f"{source}-{made}"


def identity(raw: Raw, source: str, task: str) -> str:
    """SOURCE-ID-TASK: unique over sources, and the two rows of one edit differ in the task alone."""
    return f"{source}-{raw.id.removesuffix(f'-{task}')}-{task}"


def prepare(raw: Raw, source: str, given: tuple[float, float]) -> tuple[dict[str, Any], Outcome]:
    """(canonical row, its outcome) of a public row of `source`, whose score range is `given`. Raises RowError."""
    context, fixer = Worker.context, RowFixer(Worker.context.policy)
    if raw.fault:
        raise raw.fault
    task = task_of(raw)
    template = context.templates.get((source, task))
    found = template.instruction(raw.prompt) if template and raw.prompt else None
    instruction = (raw.instruction or found or "").strip()
    if not instruction:
        raise RowError("no_instruction", f"the prompt is {(raw.prompt or '')[:60]!r}")
    reference = reference_of(raw, task, given, fixer)
    pictures = [encoded(picture) for picture in raw.images]
    overlaps = [picture.overlap for picture in pictures if picture.overlap]
    if overlaps:
        raise RowError("benchmark_overlap", overlaps[0])
    digests = tuple(picture.digest for picture in pictures)
    whole = reference["reasoning"] is not None and (task == "pq" or reference["edit_region"] is not None)
    row: dict[str, Any] = {
        "id": identity(raw, source, task),
        "task": task,
        "instruction": instruction,
        "images": [{"bytes": picture.content, "path": None} for picture in pictures],
        "reference": reference,
        "group": group_of(raw, source, instruction, digests),
        "source": source,
    }
    tokens, said = count_tokens(task, instruction, reference if whole else None)
    area = context.spec.pixels.multiple**2
    return row, Outcome(
        place=raw.place,
        id=row["id"],
        source=source,
        fixed=tuple(fixer.fixed),
        explained=None if raw.prompt is None else found is not None,
        task=task,
        instruction=instruction,
        group=row["group"],
        digests=digests,
        whole=whole,
        sizes=tuple(picture.size for picture in pictures),
        kept_bytes=sum(picture.kept_bytes for picture in pictures),
        score=tuple(reference["score"]),
        boxes=None
        if reference["edit_region"] is None
        else tuple(tuple(region["bbox_2d"]) for region in reference["edit_region"]),
        tokens=tokens + sum(width * height // area for width, height in (picture.size for picture in pictures)),
        said=said,
    )


def count_tokens(task: Task, instruction: str, reference: dict[str, Any] | None) -> tuple[int, int]:
    """(tokens of prompt and completion, of the completion alone); 0 without the recipe's `tokenizer`."""
    context = Worker.context
    if context.tokenizer is None:
        return 0, 0
    count = tokenizer(context.tokenizer)
    said = len(count.encode(render(task, reference)).ids) if reference else 0
    return len(count.encode(context.spec.prompt(task, instruction)).ids) + said, said


def prepare_chunk(raws: Sequence[Raw], source: str, given: tuple[float, float], shard: Path) -> list[Outcome]:
    """The outcome of each of `raws`, in order; the rows that are kept are written to `shard`, a Parquet file."""
    rows, outcomes = [], []
    for raw in raws:
        try:
            row, outcome = prepare(raw, source, given)
            rows.append(row)
        except RowError as fault:
            task = TASK_OF_IMAGES.get(len(raw.images), "sc")
            outcome = Outcome(raw.place, identity(raw, source, task), source, fault=fault, task=task)
        outcomes.append(outcome)
    if rows:
        table = pyarrow.Table.from_pylist(rows, schema=Worker.context.schema)
        parquet.write_table(table, shard, compression="none", use_dictionary=False, write_statistics=False)
    return outcomes
