"""The recipe's sources -> one Parquet file a split: read in order, prepared by a pool of processes, split by components.

Memory stays flat: a bounded number of chunks is in flight, prepared rows lie in shards on disk until their split is known, and
of each row only its record is held: hashes, names and figures for the report (about 1 kB).
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
from pyarrow import parquet
from tqdm import tqdm

from data.cleaning.box_format import BoxCounts
from data.cleaning.prepare import Context, RowRecord, prepare_chunk, start
from data.outcome import check_boxes, check_source, check_splits, lost, main_reason
from data.recipe import SPLITS, DataRecipe
from data.sources import RowSource
from data.splits import adopt_groups, assign_splits, drop_repeated_ids, join_answerless, subsample
from data.stored_rows import open_writer, rows_per_group
from spatial_edit_reward.errors import UserError, one_line

CHUNK = 32
FIRST = 1000  # rows of a source; where all of them are dropped, the user should know before hours have passed
Prepared = tuple[list[RowRecord], BoxCounts | None]


class Shard(NamedTuple):
    """A chunk of one source's rows: what became of each, and the file of those that are kept."""

    records: list[RowRecord]
    file: Path


def in_order(context: Context, calls: Iterator[tuple[Any, ...]]) -> Generator[Prepared, None, None]:
    """The results of `prepare_chunk` on each of `calls`, in order, with two calls a process under way at most."""
    processes = context.recipe.processes
    if processes == 1:
        start(context)
        yield from (prepare_chunk(*call) for call in calls)
        return
    waiting: deque[Future[Prepared]] = deque()
    try:
        executor = ProcessPoolExecutor(processes, get_context("spawn"), start, (context,))
    except OSError as error:  # in a container without a writable /dev/shm
        raise UserError(
            f"processes: {processes}: cannot be started ({one_line(error)}): `processes: 1` works"
        ) from None
    with executor as pool:
        try:
            for call in calls:
                waiting.append(pool.submit(prepare_chunk, *call))
                if len(waiting) > 2 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except (BrokenProcessPool, BrokenPipeError):  # the latter where it was killed before it had read what to do
            for process in active_children():  # one that started just now is not ended by the pool, which waits for it
                process.kill()
            raise UserError("one of the processes was killed, most often for memory: lower `processes`") from None
        finally:
            pool.shutdown(cancel_futures=True)


def check_policy(records: Sequence[RowRecord], recipe: DataRecipe) -> None:
    """Raises UserError naming the first row with an error that the recipe's policy lets fail the stage."""
    for row in records:
        if row.error and recipe.policy[row.error.kind] == "fail":
            raise UserError(f"{row.location}: {row.error.kind}: {row.error.detail} (policy: fail)")


def prepare_all(
    context: Context, sources: Sequence[RowSource], folder: Path
) -> tuple[list[Shard], dict[str, BoxCounts]]:
    """(every row's record in reading order, the boxes of each source); the rows that are kept are on disk.

    Raises UserError where the policy is to fail, and at the end of a source of which nothing is left, or whose boxes are of
    another format than it declares.
    """
    folder.mkdir(parents=True)
    chunks: list[tuple[int, Path]] = []

    def calls() -> Iterator[tuple[Any, ...]]:
        for index, source in enumerate(sources):
            for chunk in source.chunks(CHUNK):
                chunks.append((index, folder / f"{len(chunks):06d}.parquet"))
                yield chunk, source.name, source.score_range, chunks[-1][1]

    shards: list[Shard] = []
    boxes: dict[str, BoxCounts] = {}
    current: list[RowRecord] = []  # of the source that is being read
    with tqdm(desc="rows", unit="row") as bar, closing(in_order(context, calls())) as prepared:
        for number, (records, counts) in enumerate(prepared):
            check_policy(records, context.recipe)
            index, file = chunks[number]
            name = sources[index].name
            if current and current[-1].source_index != index:
                check_ended(current, boxes, context.recipe.max_dropped)
                current = []
            for row in records:
                row.source_index = index
            current += records
            if len(current) - len(records) < FIRST <= len(current) and lost(current, final=False):
                bar.write(
                    f"warning: the first {len(current)} rows of {name!r} are lost: {main_reason(current)}", sys.stderr
                )
            if counts:
                boxes.setdefault(name, BoxCounts(counts.declared)).merge(counts)
            shards.append(Shard(records, file))
            bar.update(len(records))
    check_ended(current, boxes, context.recipe.max_dropped)
    read = {row.source_index for shard in shards for row in shard.records}
    for index, source in enumerate(sources):
        if index not in read:
            check_source(source.name, (), True, 1)
    return shards, boxes


def check_ended(records: Sequence[RowRecord], boxes: Mapping[str, BoxCounts], max_dropped: float) -> None:
    """Raises UserError where the source whose rows `records` are was read for nothing."""
    if records:
        name = records[0].source
        check_boxes(name, boxes.get(name))
        check_source(name, records, False, max_dropped)


def write_splits(shards: Sequence[Shard], schema: pyarrow.Schema, folder: Path) -> None:
    """Moves the shards' rows, with their records' groups, to `folder/SPLIT.parquet`; each shard is deleted once it is read."""
    splits = {row.split for shard in shards for row in shard.records if row.stored}
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(open_writer(folder / f"{split}.parquet", schema))
            for split in SPLITS
            if split in splits
        }
        for shard in tqdm(shards, desc="splits", unit="shard", delay=2):
            if not shard.file.exists():
                continue
            table = parquet.read_table(shard.file, schema=schema, memory_map=True)
            stored = [row for row in shard.records if row.stored]
            groups = pyarrow.array([row.group for row in stored], pyarrow.string())
            table = table.set_column(schema.get_field_index("group"), "group", groups)
            for split, writer in writers.items():
                rows = table.filter([row.split == split for row in stored])
                if len(rows):
                    writer.write_table(rows, rows_per_group(rows))
            shard.file.unlink()


def build(context: Context, sources: Sequence[RowSource], folder: Path) -> tuple[list[RowRecord], dict[str, BoxCounts]]:
    """Writes the splits of all `sources` into `folder`; returns what became of every row, in reading order, and all boxes.

    Raises UserError naming the file, row or key that is wrong, and for a source or a split without a row.
    """
    recipe = context.recipe
    shards, boxes = prepare_all(context, sources, folder / "shards")
    records = [row for shard in shards for row in shard.records]
    drop_repeated_ids(records)
    joined = join_answerless(records)
    adopt_groups(records)
    assign_splits(records, sources, recipe.seed, joined)
    subsample(records, recipe.subsample, recipe.seed)
    check_policy(records, context.recipe)
    for name in dict.fromkeys(source.name for source in sources):
        check_source(name, [row for row in records if row.source == name], True, recipe.max_dropped)
    check_splits(records, sources)
    write_splits(shards, context.schema, folder)
    (folder / "shards").rmdir()
    return records, boxes
