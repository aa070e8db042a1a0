"""Every broken row meets the outcome that stands beside it: row by row, and all of them through the stage."""

from collections import Counter

import pytest
from datasets import Dataset

from data.cleaning.fixer import KINDS, RowError, policies
from data.cleaning.prepare import Context, prepare, start
from data.hashes import read_benchmarks
from data.readers import spatialreward
from data.recipe import Source
from data.rows import FEATURES, fault
from rewards_fn import format
from spatial_edit_reward import Spec, render
from tests.data.broken_rows import CASES, SC, row, sc
from tests.data.conftest import data_recipe, prepared, write_lines

SPEC = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=320)
# What only shows among other rows.
AMONG_OTHERS = {"repeated_id", "not_for_sft"}


def context(images, **policy):
    benchmark = read_benchmarks([images.parent / "benchmark"], SPEC.pixels, 4)
    return Context(SPEC, policies(policy), 5.0, "png", benchmark, None, FEATURES.arrow_schema)


def outcome(images, tmp_path, made):
    """(canonical row, kinds it was fixed by), or the RowError, of a public row."""
    file = write_lines(tmp_path / "rows.jsonl", [made])
    source = Source(name="broken", layout="spatialreward", path=str(file), images=images, splits={"train": 1})
    (raw,) = spatialreward.rows(source)
    try:
        kept, its = prepare(raw, "broken", source.score_range)
    except RowError as found:
        return found
    return kept, its.fixed


def test_there_is_a_row_for_every_kind():
    met = {kind for case in CASES for kind in (*case.fixed, case.dropped)} - {None}
    assert len([case for case in CASES if case.fixed or case.dropped]) >= 60
    assert set(KINDS) - met == {"not_for_sft", "subsampled"}  # tests/data/test_build.py, test_keep.py


@pytest.mark.parametrize("case", [c for c in CASES if c.dropped not in AMONG_OTHERS], ids=lambda case: case.wrong)
def test_a_row_by_the_default_policy(images, tmp_path, case):
    start(context(images))
    found = outcome(images, tmp_path, case.row)
    if case.dropped:
        assert isinstance(found, RowError), f"kept, fixed by {found[1]}"
        assert found.kind == case.dropped and found.detail
        return
    assert not isinstance(found, RowError), found
    kept, fixed = found
    assert fixed == case.fixed
    assert fault({**kept, "images": list(kept["images"])}, SPEC) is None
    assert format([render(kept["task"], kept["reference"])], [kept["task"]]) == [1.0]


def reference_of(images, tmp_path, made, **policy):
    start(context(images, **policy))
    found = outcome(images, tmp_path, made)
    return found if isinstance(found, RowError) else found[0]["reference"]


def test_what_the_fixes_make(images, tmp_path):
    def box(corners):
        return reference_of(images, tmp_path, sc(edit_region=[{**SC["edit_region"][0], "bbox_2d": corners}]))

    assert box([300, 400, 10, 20])["edit_region"][0]["bbox_2d"] == [10, 20, 300, 400]
    assert box([-3, 0, 1004, 400])["edit_region"][0]["bbox_2d"] == [0, 0, 1000, 400]
    assert reference_of(images, tmp_path, sc(score=["20/25", "7.5"]))["score"] == [20, 7.5]
    regions = [{"id": 7, "label": "lid", "bbox_2d": [0, 0, 9, 9]}, {"id": 3, "label": "cup", "bbox_2d": [0, 0, 9, 9]}]
    text = "<|bbox_3|> this is the cup. <|bbox_7|> this is the lid. <|global|> all of it done."
    found = reference_of(images, tmp_path, sc(edit_region=regions, reasoning=text))
    assert [(region["id"], region["label"]) for region in found["edit_region"]] == [(0, "lid"), (1, "cup")]
    assert found["reasoning"].startswith("<|bbox_1|> this is the cup. <|bbox_0|> this is the lid.")


@pytest.mark.parametrize("case", [c for c in CASES if len(c.fixed) == 1], ids=lambda case: case.wrong)
def test_what_may_not_be_fixed_is_dropped(images, tmp_path, case):
    found = reference_of(images, tmp_path, case.row, **{case.fixed[0]: "drop"})
    assert isinstance(found, RowError) and found.kind == case.fixed[0]


def test_what_is_dropped_by_default_can_be_fixed_where_there_is_a_fix(images, tmp_path):
    cut = next(case for case in CASES if case.wrong == "a trailing comma")
    assert reference_of(images, tmp_path, cut.row, broken_json="fix")["score"] == [20, 15]
    lost = row(SC["reasoning"])
    assert reference_of(images, tmp_path, lost, broken_json="fix").kind == "unreadable_verdict"
    cited_ids = next(case for case in CASES if case.wrong == "a cite of no region")
    assert "bbox_4" not in reference_of(images, tmp_path, cited_ids.row, cite_without_box="fix")["reasoning"]


@pytest.mark.parametrize(("policy", "said"), [({"no_such": "fix"}, "no kind"), ({"label": "fix"}, "cannot be fixed")])
def test_a_policy_that_cannot_be(policy, said):
    with pytest.raises(ValueError, match=said):
        policies(policy)


@pytest.fixture(scope="module")
def stage(images, tmp_path_factory):
    """The stage on all of the rows at once: its recipe, what it printed, its report."""
    folder = tmp_path_factory.mktemp("broken")
    rows = [case.row for case in CASES]
    # Only a row that reads as an object can have an id; the ids are those of their lines.
    write_lines(folder / "rows.jsonl", rows)
    source = {"name": "broken", "layout": "spatialreward", "path": str(folder / "rows.jsonl"), "images": str(images)}
    recipe = data_recipe(folder, [{**source, "splits": {"train": 1}}], benchmarks=[str(images.parent / "benchmark")])
    done, report = prepared(recipe)
    assert done.returncode == 0, done.stderr
    return recipe, done, report


def test_the_report_counts_every_row(stage):
    _, done, report = stage
    dropped = Counter(case.dropped for case in CASES if case.dropped)
    fixed = Counter(kind for case in CASES for kind in case.fixed)
    of = report["sources"]["broken"]
    assert of["in"] == len(CASES) and of["kept"] == len(CASES) - dropped.total()
    # The row with the repeated id is "0"; so is that of the first line, which has none of its own.
    assert of["dropped"] == dict(dropped) and of["fixed"] == dict(fixed)
    assert report["benchmark_overlap"] == {"exact": 0, "perceptual": 2}
    assert set(report["examples"]) == set(dropped) | set(fixed)
    for kind, example in report["examples"].items():
        assert kind in done.stdout and ":" in example["place"] and example["said"]


def test_the_kept_rows_are_the_ones_expected(stage):
    recipe, _, _ = stage
    rows = Dataset.from_parquet(str(recipe.parent / "data" / "train.parquet"), features=FEATURES)
    kept = {number for number, case in enumerate(CASES) if not case.dropped}
    assert {int(identity.split("-")[1]) for identity in rows["id"]} == kept
    assert all(picture.mode == "RGB" for row in rows for picture in row["images"])


@pytest.mark.slow
def test_the_same_again_does_nothing_and_a_changed_recipe_rebuilds(stage):
    recipe, _, _ = stage
    again, _ = prepared(recipe)
    assert again.returncode == 0 and "nothing to do" in again.stdout
    recipe.write_text(recipe.read_text() + "box_tolerance: 12.0\n")
    changed, report = prepared(recipe)
    assert changed.returncode == 0 and "box_tolerance: 5.0 -> 12.0" in changed.stdout
    assert report["sources"]["broken"]["fixed"]["box_edge"] == 3


@pytest.mark.parametrize(("kind", "change"), [("score_outside", {"score": [26, 1]}), ("repeated_id", {})])
def test_fail_names_the_row(images, tmp_path, kind, change):
    file = write_lines(tmp_path / "rows.jsonl", [{**sc(**more), "id": "x"} for more in ({}, change)])
    source = {"name": "x", "layout": "spatialreward", "path": str(file), "images": str(images), "splits": {"train": 1}}
    done, report = prepared(data_recipe(tmp_path, [source], policy={kind: "fail"}))
    assert done.returncode != 0 and report is None and not (tmp_path / "data").exists()
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "rows.jsonl:2" in last and kind in last
