"""Which split a row falls to: what shares an image or a group stays together, so that none crosses train / validation / RL."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data.recipe import SPLITS, Split


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
