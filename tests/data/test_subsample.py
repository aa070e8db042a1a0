"""A recipe may keep a share of a split's failed edits and `pq` rows; other splits and other rows stay as they are."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from data.recipe import Subsample
from tests.data.conftest import data_recipe, prepared

BOX = (0.0, 0.0, 10.0, 10.0)
KINDS = {"edited": ("sc", (BOX,)), "unknown": ("sc", None), "failed": ("sc", ()), "pq": ("pq", None)}


@given(
    st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.sampled_from(["train", "rl", None])), max_size=60),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 5),
)
def test_shares_are_met_and_nothing_else_is_touched(rows, failed, pq, seed):
    from data.cleaning.prepare import RowRecord
    from data.splits import subsample

    def records():
        return [
            RowRecord(f"rows, line {n}", str(n), "s", task=KINDS[kind][0], boxes=KINDS[kind][1], split=split)
            for n, (kind, split) in enumerate(rows)
        ]

    left, again = records(), records()
    subsample(left, {"rl": Subsample(failed=failed, pq=pq)}, seed)
    before, after = Counter(rows), Counter((kind, row.split) for (kind, _), row in zip(rows, left, strict=True))
    share = {("failed", "rl"): failed, ("pq", "rl"): pq}
    for key, count in before.items():
        if key[1] is not None:
            assert after[key] == round(share.get(key, 1) * count)
    for number, ((_, split), row) in enumerate(zip(rows, left, strict=True)):
        assert (row.error is None) == (row.split == split) and row.id == str(number)
        assert row.error is None or (row.split is None and row.error.kind == "subsampled")
    subsample(again, {"rl": Subsample(failed=failed, pq=pq)}, seed)
    assert [row.split for row in again] == [row.split for row in left]


def test_the_report_says_what_was_left_out(tmp_path):
    groups = {"train": 1, "validation": 1, "rl": 4, "heldout": 1}
    done, report = prepared(
        data_recipe(tmp_path, [], synthetic_groups=groups, subsample={"rl": {"failed": 0, "pq": 0.25}})
    )
    assert done.returncode == 0, done.stderr
    rl = report["splits"]["rl"]
    assert rl["pq"] == 4 and rl["sc"] == rl["sc_with_region"] > 0
    assert report["splits"]["heldout"]["rows"] == 8
    assert report["sources"]["synthetic"]["dropped"] == {"subsampled": 32 - rl["rows"]}
    assert "subsampled" in done.stdout

    wrong, _ = prepared(data_recipe(tmp_path, [], synthetic_groups=groups, subsample={"rl": {"failed": 1.5}}))
    assert wrong.returncode != 0 and "subsample.rl.failed" in wrong.stderr
