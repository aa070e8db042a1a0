"""Which split a row falls to: what shares an image or a group stays together, so that none crosses train / validation / RL."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data.cleaning.fixer import RowError
from data.cleaning.prepare import RowRecord
from data.recipe import SPLITS, Split, Subsample
from data.sources import RowSource


def components(ties: Sequence[Iterable[Hashable]]) -> np.ndarray:
    """The component of each row, numbered in order of first appearance; rows with a tie in common are in one.

    `ties`: each row's image hashes and group, anything hashable. Shape (rows,), int.
    """
    numbers: dict[Hashable, int] = {}
    row_of, tie_of = [], []
    for index, row in enumerate(ties):
        for tie in row:
            row_of.append(index)
            tie_of.append(len(ties) + numbers.setdefault(tie, len(numbers)))
    nodes = len(ties) + len(numbers)
    graph = coo_array((np.ones(len(row_of), dtype=np.int8), (row_of, tie_of)), shape=(nodes, nodes))
    _, labels = connected_components(graph, directed=False)
    _, first, inverse = np.unique(labels[: len(ties)], return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return order[inverse]


def assign(
    component: np.ndarray, source: Sequence[int], shares: Sequence[Mapping[Split, float]], seed: int
) -> list[Split]:
    """The split of each row: that of its component, which is drawn by the shares of its first row's source.

    `component`: (rows,) as `components` numbers them; `source`: each row's index in `shares`. Components of one source are
    shuffled by `seed`, each source in its own order, and cut at the shares, so that they are met as nearly as complete
    components allow.
    """
    _, first = np.unique(component, return_index=True)
    owner = np.asarray(source)[first]
    split_of = np.zeros(len(first), dtype=np.int64)
    for index, share in enumerate(shares):
        own = np.flatnonzero(owner == index)
        order = np.random.default_rng([seed, index]).permutation(len(own))
        ends = np.cumsum(list(share.values())) / sum(share.values()) * len(own)
        drawn = np.searchsorted(np.round(ends), order, side="right")
        split_of[own] = np.array([SPLITS.index(split) for split in share], dtype=np.int64)[drawn]
    return [SPLITS[index] for index in split_of[component]]


def drop_repeated_ids(records: Sequence[RowRecord]) -> None:
    """Drops every row whose id an earlier one has."""
    seen: set[str] = set()
    for row in records:
        if row.error is None and row.id in seen:
            row.error = RowError("repeated_id", row.id)
        elif row.error is None:
            seen.add(row.id)


def adopt_groups(records: Sequence[RowRecord]) -> None:
    """Puts each `pq` row without a group of its own into that of the `sc` row of its image, of its instruction if it can be."""
    kept = [row for row in records if row.error is None]
    groups = {
        (row.image_hashes[1], words): row.group for row in kept if row.task == "sc" for words in (row.words, None)
    }
    for row in kept:
        if row.group is None:
            image = row.image_hashes[0]
            row.group = groups.get((image, row.words), groups.get((image, None)))


def join_answerless(records: Sequence[RowRecord]) -> set[str]:
    """Joins each row without an answer to the first row that has its task, its images, its instruction and an answer.

    That row stands for it: it has the reference, and falls to the split of whichever of the two comes first. Of `pq` rows one
    may have no instruction. Returns the ids of the rows that stand for others.
    """

    def keys(row: RowRecord) -> list[Hashable]:
        words = [row.words, None] if row.task == "pq" else [row.words]
        return [(*row.image_hashes, digest) for digest in words]

    answerless = [row for row in records if row.error and row.error.kind == "no_verdict" and row.image_hashes]
    wanted = {key for row in answerless for key in keys(row)}
    twins: dict[Hashable, str] = {}
    for row in records if wanted else ():
        if row.error is None:
            for key in wanted.intersection(keys(row)):
                twins.setdefault(key, row.id)
    joined = set()
    for row in answerless:
        twin = next((twins[key] for key in keys(row) if key in twins), None)
        if twin is not None:
            joined.add(twin)
            row.error = RowError("joined", twin)
        else:
            row.error = RowError(
                "no_verdict", "no answer in `messages` or `conversations`, nor in a row with its images and instruction"
            )
    return joined


def assign_splits(
    records: Sequence[RowRecord], sources: Sequence[RowSource], seed: int, joined: Collection[str] = ()
) -> None:
    """Gives each row that is kept or joined its split, or drops it.

    What falls to stage 1's splits without a complete verdict is dropped, and what falls to a split that its own source does not
    name, but for the rows whose ids are in `joined`: they stand for a row of a source that names it.
    """
    rows = [row for row in records if row.error is None or row.error.kind == "joined"]
    ties = [[*row.image_hashes, *filter(None, [row.group])] for row in rows]
    shares = [source.splits for source in sources]
    splits = assign(components(ties), [row.source_index for row in rows], shares, seed)
    for row, split in zip(rows, splits, strict=True):
        if row.error is None and split not in shares[row.source_index] and row.id not in joined:
            row.error = RowError("other_split", f"it fell to {split}")
        elif row.error is None and split in ("train", "validation") and not row.has_verdict:
            row.error = RowError("not_for_sft", f"it fell to {split}")
        else:
            row.split = split


def subsample(records: Sequence[RowRecord], shares: Mapping[Split, Subsample], seed: int) -> None:
    """Drops all but the given shares of a split's failed edits and `pq` rows, drawn by `seed`."""
    for split, share in shares.items():
        rows = [row for row in records if row.split == split and row.error is None]
        failed = [row for row in rows if row.task == "sc" and row.boxes == ()]
        pq = [row for row in rows if row.task == "pq"]
        for number, (kind, part, members) in enumerate((("failed", share.failed, failed), ("pq", share.pq, pq))):
            order = np.random.default_rng([seed, SPLITS.index(split), number]).permutation(len(members))
            for index in order[round(part * len(members)) :]:
                members[index].split = None
                members[index].error = RowError("subsampled", f"{part:g} of {kind} in {split}")
