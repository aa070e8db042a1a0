"""The recipe's sources -> one Parquet file a split: read in order, prepared by a pool of processes, split by components.

Memory stays flat: a bounded number of chunks is in flight, prepared rows lie in shards on disk until their split is known, and
of each row only its hashes, its names and its report figures are held (about 1 kB).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
from pyarrow import parquet
from tqdm import tqdm

from data.cleaning.fixer import Policy, RowError
from data.cleaning.prepare import Context, Outcome, prepare_chunk, start
from data.recipe import SPLITS, DataRecipe, Kept, Source, Split
from data.sources import LAYOUTS
from data.splits import assign, components
from spatial_edit_reward.errors import UserError

CHUNK = 32


class Built(NamedTuple):
    """What became of every row in reading order, and the split of each; None for a dropped one."""

    outcomes: list[Outcome]
    splits: list[Split | None]


def in_order(
    recipe: DataRecipe, context: Context, calls: Iterator[tuple[Any, ...]]
) -> Generator[list[Outcome], None, None]:
    """The results of `prepare_chunk` on each of `calls`, in order, with two calls a process under way at most."""
    if recipe.processes == 1:
        start(context)
        yield from (prepare_chunk(*call) for call in calls)
        return
    waiting: deque[Future[list[Outcome]]] = deque()
    with ProcessPoolExecutor(recipe.processes, get_context("spawn"), start, (context,)) as pool:
        try:
            for call in calls:
                waiting.append(pool.submit(prepare_chunk, *call))
                if len(waiting) > 2 * recipe.processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def refuse(outcomes: Sequence[Outcome], policy: dict[str, Policy]) -> None:
    """Raises UserError naming the first row with a fault that the policy lets fail the stage."""
    for row in outcomes:
        if row.fault and policy[row.fault.kind] == "fail":
            raise UserError(f"{row.place}: {row.fault.kind}: {row.fault.detail} (policy: fail)")


class Shard(NamedTuple):
    """A chunk of one source's rows: the source's place in the list, what became of each row, and the file of those kept."""

    entry: int
    outcomes: list[Outcome]
    file: Path


def prepare_all(recipe: DataRecipe, sources: Sequence[Source], context: Context, folder: Path) -> list[Shard]:
    """Every row's outcome in reading order; the rows that were not dropped are on disk. Raises UserError for a `fail`."""
    folder.mkdir(parents=True)
    chunks: list[tuple[int, Path]] = []

    def calls() -> Iterator[tuple[Any, ...]]:
        for entry, source in enumerate(sources):
            rows = LAYOUTS[source.layout](source)
            while chunk := list(islice(rows, CHUNK)):
                chunks.append((entry, folder / f"{len(chunks):06d}.parquet"))
                yield chunk, source.name, source.score_range, chunks[-1][1]

    shards = []
    with tqdm(desc="rows", unit="row") as bar, closing(in_order(recipe, context, calls())) as prepared:
        for number, outcomes in enumerate(prepared):
            refuse(outcomes, context.policy)
            entry, file = chunks[number]
            shards.append(Shard(entry, outcomes, file))
            bar.update(len(outcomes))
    return shards


def without_repeats(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes with every row dropped whose id an earlier one has."""
    seen: set[str] = set()
    result = []
    for row in outcomes:
        if row.fault is None and row.id in seen:
            row = replace(row, fault=RowError("repeated_id", row.id))
        elif row.fault is None:
            seen.add(row.id)
        result.append(row)
    return result


def with_groups(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes with a `pq` row that has no group of its own in the group of the `sc` row of its edit and instruction."""
    kept = [row for row in outcomes if row.fault is None]
    groups = {(row.digests[1], row.instruction): row.group for row in kept if row.task == "sc"}

    def adopted(row: Outcome) -> Outcome:
        if row.fault is not None or row.group is not None:
            return row
        return replace(row, group=groups.get((row.digests[0], row.instruction)))

    return [adopted(row) for row in outcomes]


def with_splits(
    outcomes: Sequence[Outcome], entries: Sequence[int], sources: Sequence[Source], seed: int
) -> tuple[list[Outcome], list[Split | None]]:
    """(outcomes, split of each, None for a dropped one); what fell to stage 1's splits without a whole verdict is dropped."""
    kept = [place for place, row in enumerate(outcomes) if row.fault is None]
    ties = [[*outcomes[place].digests, *filter(None, [outcomes[place].group])] for place in kept]
    drawn = assign(components(ties), [entries[place] for place in kept], [s.splits for s in sources], seed)
    result = list(outcomes)
    splits: list[Split | None] = [None] * len(result)
    for place, split in zip(kept, drawn, strict=True):
        if split in ("train", "validation") and not result[place].whole:
            result[place] = replace(result[place], fault=RowError("not_for_sft", f"it fell to {split}"))
        else:
            splits[place] = split
    return result, splits


def subsample(
    outcomes: Sequence[Outcome], splits: Sequence[Split | None], keep: Mapping[Split, Kept], seed: int
) -> tuple[list[Outcome], list[Split | None]]:
    """(outcomes, splits) with all but the shares in `keep` of a split's failed edits and `pq` rows dropped, drawn by `seed`."""
    result, left = list(outcomes), list(splits)
    for split, shares in keep.items():
        own = [place for place, its in enumerate(splits) if its == split]
        failed = [place for place in own if outcomes[place].task == "sc" and outcomes[place].boxes == ()]
        pq = [place for place in own if outcomes[place].task == "pq"]
        kinds = (("failed", shares.failed, failed), ("pq", shares.pq, pq))
        for number, (kind, share, places) in enumerate(kinds):
            order = np.random.default_rng([seed, SPLITS.index(split), number]).permutation(places)
            for place in order[round(share * len(places)) :]:
                result[place] = replace(result[place], fault=RowError("subsampled", f"{share:g} of {kind} in {split}"))
                left[place] = None
    return result, left


def write_splits(
    shards: Sequence[Shard],
    outcomes: Sequence[Outcome],
    splits: Sequence[Split | None],
    schema: pyarrow.Schema,
    folder: Path,
) -> None:
    """Moves the shards' rows, with the groups of `outcomes`, to `folder/SPLIT.parquet`; each shard is deleted once read."""
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                parquet.ParquetWriter(folder / f"{split}.parquet", schema, compression="none", use_dictionary=False)
            )
            for split in SPLITS
            if split in splits
        }
        first = 0
        for shard in tqdm(shards, desc="splits", unit="shard", delay=2):
            places = [first + at for at, row in enumerate(shard.outcomes) if row.fault is None]
            first += len(shard.outcomes)
            if not places:
                continue
            table = parquet.read_table(shard.file, schema=schema, memory_map=True)
            groups = pyarrow.array([outcomes[place].group for place in places], pyarrow.string())
            table = table.set_column(schema.get_field_index("group"), "group", groups)
            for split, writer in writers.items():
                rows = table.filter([splits[place] == split for place in places])
                if len(rows):
                    writer.write_table(rows)
            shard.file.unlink()


def build(recipe: DataRecipe, sources: Sequence[Source], context: Context, folder: Path) -> Built:
    """Writes the splits of all `sources` into `folder`. Raises UserError naming the file, row or key that is at fault."""
    shards = prepare_all(recipe, sources, context, folder / "shards")
    entries = [shard.entry for shard in shards for _ in shard.outcomes]
    outcomes = with_groups(without_repeats([row for shard in shards for row in shard.outcomes]))
    outcomes, splits = with_splits(outcomes, entries, sources, recipe.seed)
    outcomes, splits = subsample(outcomes, splits, recipe.keep, recipe.seed)
    refuse(outcomes, context.policy)
    write_splits(shards, outcomes, splits, context.schema, folder)
    (folder / "shards").rmdir()
    return Built(outcomes, splits)
