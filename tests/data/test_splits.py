"""Rows that share an image or a group fall to one split; shares are met as nearly as complete components allow."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.splits import assign, components

TIES = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=3), min_size=1, max_size=40)


@given(TIES)
def test_a_component_is_what_ties_reach(ties):
    labels = components(ties)
    reach = list(range(len(ties)))
    for _ in ties:  # by the slow way: labels spread until nothing changes
        for one in range(len(ties)):
            for other in range(len(ties)):
                if set(ties[one]) & set(ties[other]):
                    reach[one] = reach[other] = min(reach[one], reach[other])
    same = [[a == b for b in reach] for a in reach]
    assert [[bool(a == b) for b in labels] for a in labels] == same
    firsts = [label for index, label in enumerate(labels) if label not in labels[:index]]
    assert firsts == list(range(len(firsts)))


@given(TIES, st.integers(0, 5))
def test_no_tie_crosses_splits(ties, seed):
    splits = assign(components(ties), [0] * len(ties), [{"train": 2, "validation": 1, "rl": 1}], seed)
    of_tie = {}
    for row, split in zip(ties, splits, strict=True):
        for tie in row:
            assert of_tie.setdefault(tie, split) == split


def test_a_pq_row_listed_before_its_sc_row_follows_it():
    # pq of edit B, then sc of A -> B, then sc of A -> C, then something else
    ties = [["B"], ["A", "B"], ["A", "C"], ["X", "Y"]]
    labels = components(ties).tolist()
    assert labels == [0, 0, 0, 1]
    for seed in range(20):
        splits = assign(np.array(labels), [0, 0, 0, 0], [{"train": 1, "rl": 1}], seed)
        assert len(set(splits[:3])) == 1
        assert Counter(splits[:1] + splits[3:]) == {"train": 1, "rl": 1}


@given(st.integers(1, 400), st.floats(0.05, 20), st.floats(0.05, 20), st.integers(0, 3))
def test_shares_are_met(count, train, rl, seed):
    splits = Counter(assign(np.arange(count), [0] * count, [{"train": train, "rl": rl}], seed))
    assert abs(splits["train"] - count * train / (train + rl)) <= 0.5 + 1e-6
    assert splits.total() == count


def test_the_first_rows_source_decides():
    # rows 0 and 2 share an image; row 0 comes from the source that goes to rl
    splits = assign(components([["A"], ["B"], ["A"]]), [0, 1, 1], [{"rl": 1}, {"train": 1}], 0)
    assert splits == ["rl", "train", "rl"]


def test_each_source_is_shuffled_in_its_own_order():
    share = {"train": 1, "rl": 1}
    splits = assign(np.arange(80), [0] * 40 + [1] * 40, [share, share], 0)
    assert Counter(splits[:40]) == Counter(splits[40:]) == {"train": 20, "rl": 20}
    assert splits[:40] != splits[40:]


def test_rows_of_a_group_fall_to_one_split_though_they_share_no_image():
    from data.cleaning.prepare import RowRecord
    from data.sources import RowSource
    from data.splits import assign_splits

    def split_of(grouped):
        rows = [
            RowRecord(
                "", str(n), "s", image_hashes=(b"%d" % n,), group=f"g{n % 10}" if grouped else None, has_verdict=True
            )
            for n in range(40)
        ]
        assign_splits(rows, [RowSource("s", {"train": 1, "rl": 1}, lambda size: iter(()))], 0)
        return [row.split for row in rows]

    splits = split_of(grouped=True)
    assert all(len(set(splits[n::10])) == 1 for n in range(10)) and set(splits) == {"train", "rl"}
    assert any(len(set(split_of(grouped=False)[n::10])) == 2 for n in range(10))
