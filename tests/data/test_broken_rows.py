"""Every broken row has the result that stands beside it: row by row, and all of them through the stage."""

import re
from collections import Counter

import pytest

from data.cleaning.fixer import KINDS, RowError, policies
from data.readers import spatialreward
from data.recipe import DataRecipe, Source
from rewards_fn import format
from spatial_edit_reward import Spec, render
from tests.data.broken_rows import CASES, DRAFT, GOOD, SC, row, sc
from tests.data.conftest import data_recipe, prepared, write_lines

LIMITS = {"pixels": {"min": 256, "max": 4096, "multiple": 16}, "max_new_tokens": 320}
SPEC = Spec(**LIMITS)
# What only shows among other rows.
AMONG_OTHERS = {"repeated_id", "not_for_sft", "joined"}


def result(images, tmp_path, public_row, **policy):
    """(canonical row, kinds it was fixed by), or the RowError, of a public row."""
    from data.cleaning.prepare import Context, Preparer
    from data.hashes import read_benchmarks
    from data.rows import features

    benchmark = read_benchmarks([images.parent / "benchmark"], SPEC.pixels, 4)
    file = write_lines(tmp_path / "rows.jsonl", [public_row])
    source = Source(name="broken", layout="spatialreward", path=str(file), images=images, splits={"train": 1})
    recipe = DataRecipe(output_dir=tmp_path, sources=[source], policy=policy, **LIMITS)
    preparer = Preparer(Context(recipe, SPEC, features().arrow_schema, benchmark))
    (raw,) = spatialreward.rows(source)
    try:
        kept, record = preparer.prepare(raw, "broken", source.score_range)
    except RowError as error:
        return error
    return (kept, tuple(record.fixed)) if kept else record.error


def test_there_is_a_row_for_every_kind():
    kinds = {kind for case in CASES for kind in (*case.fixed, case.dropped)} - {None}
    assert len([case for case in CASES if case.fixed or case.dropped]) >= 60
    assert set(KINDS) - kinds == {
        "other_split",
        "not_for_sft",
        "subsampled",
    }  # test_build.py, test_outcome.py, test_subsample.py


@pytest.mark.parametrize("case", [c for c in CASES if c.dropped not in AMONG_OTHERS], ids=lambda case: case.wrong)
def test_a_row_by_the_default_policy(images, tmp_path, case):
    from data.rows import row_error

    kept = result(images, tmp_path, case.row)
    if case.dropped:
        assert isinstance(kept, RowError), f"kept, fixed by {kept[1]}"
        assert kept.kind == case.dropped and kept.detail
        return
    assert not isinstance(kept, RowError), kept
    canonical, fixed = kept
    assert fixed == case.fixed
    assert row_error(canonical, SPEC) is None
    assert format([render(canonical["task"], canonical["reference"])], [canonical["task"]]) == [1.0]


def read_reference(images, tmp_path, public_row, **policy):
    kept = result(images, tmp_path, public_row, **policy)
    return kept if isinstance(kept, RowError) else kept[0]["reference"]


def read_box(images, tmp_path, corners, **policy):
    public_row = sc(edit_region=[{**SC["edit_region"][0], "bbox_2d": corners}])
    reference = read_reference(images, tmp_path, public_row, **policy)
    return reference if isinstance(reference, RowError) else reference["edit_region"][0]["bbox_2d"]


def test_what_the_fixes_make(images, tmp_path):
    # The corners of the first cannot be a width and a height: 700 + 400 goes beyond the image.
    assert read_box(images, tmp_path, [700, 800, 400, 600], box_swapped="fix") == [400, 600, 700, 800]
    assert read_box(images, tmp_path, [300, 400, 10, 20], box_swapped="fix").kind == "box_swapped"
    assert read_box(images, tmp_path, [-3, 0, 1004, 400]) == [0, 0, 1000, 400]
    assert read_reference(images, tmp_path, sc(score=["20/25", "7.5"]))["score"] == [20, 7.5]
    for text in (f"{DRAFT} No: {GOOD}", f"{DRAFT} No.</think>{GOOD}", f"{GOOD}\n{DRAFT[:-20]}"):
        assert read_reference(images, tmp_path, row(text))["score"] == [20, 15]
    # The 1 of a verdict that is cut off in its score may be the beginning of 15.
    assert read_reference(images, tmp_path, row(GOOD[:-3]), broken_json="fix").kind == "score_shape"
    token = row(SC, instruction="Remove <|image_pad|> now.")
    assert result(images, tmp_path, token)[0]["instruction"] == "Remove <| image_pad |> now."
    regions = [{"id": 7, "label": "lid", "bbox_2d": [0, 0, 9, 9]}, {"id": 3, "label": "cup", "bbox_2d": [0, 0, 9, 9]}]
    text = "<|bbox_3|> this is the cup. <|bbox_7|> this is the lid. <|global|> all of it done."
    reference = read_reference(images, tmp_path, sc(edit_region=regions, reasoning=text))
    assert [(region["id"], region["label"]) for region in reference["edit_region"]] == [(0, "lid"), (1, "cup")]
    assert reference["reasoning"].startswith("<|bbox_1|> this is the cup. <|bbox_0|> this is the lid.")


def test_a_box_out_by_just_the_tolerance_is_clamped(images, tmp_path):
    assert read_box(images, tmp_path, [-5, 0, 1005, 400]) == [0, 0, 1000, 400]
    for corners in ([-5.01, 0, 900, 400], [0, 0, 1005.01, 400]):
        assert read_box(images, tmp_path, corners).kind == "box_outside"


@pytest.mark.parametrize("case", [c for c in CASES if len(c.fixed) == 1], ids=lambda case: case.wrong)
def test_what_may_not_be_fixed_is_dropped(images, tmp_path, case):
    error = read_reference(images, tmp_path, case.row, **{case.fixed[0]: "drop"})
    assert isinstance(error, RowError) and error.kind == case.fixed[0]


def test_what_is_dropped_by_default_can_be_fixed_where_there_is_a_fix(images, tmp_path):
    cut = next(case for case in CASES if case.wrong == "a trailing comma")
    assert read_reference(images, tmp_path, cut.row, broken_json="fix")["score"] == [20, 15]
    lost = row(SC["reasoning"])
    assert read_reference(images, tmp_path, lost, broken_json="fix").kind == "unreadable_verdict"
    cites = next(case for case in CASES if case.wrong == "a cite of no region")
    assert "bbox_4" not in read_reference(images, tmp_path, cites.row, cite_without_box="fix")["reasoning"]


@pytest.mark.parametrize(("policy", "error"), [({"no_such": "fix"}, "no kind"), ({"label": "fix"}, "cannot be fixed")])
def test_a_policy_that_cannot_be(policy, error):
    with pytest.raises(ValueError, match=error):
        policies(policy)


@pytest.fixture(scope="module")
def stage(images, tmp_path_factory):
    """The stage on all of the rows at once: its recipe, what it printed, its report."""
    folder = tmp_path_factory.mktemp("broken")
    rows = [case.row for case in CASES]
    # Only a row that reads as an object can have an id; the ids are those of their lines.
    write_lines(folder / "rows.jsonl", rows)
    source = {"name": "broken", "layout": "spatialreward", "path": str(folder / "rows.jsonl"), "images": str(images)}
    benchmarks = [str(images.parent / "benchmark")]
    recipe = data_recipe(folder, [{**source, "splits": {"train": 1}}], benchmarks=benchmarks, max_dropped=1)
    done, report = prepared(recipe)
    assert done.returncode == 0, done.stderr
    return recipe, done, report


def test_the_report_counts_every_row(stage):
    _, _, report = stage
    dropped = Counter(case.dropped for case in CASES if case.dropped)
    fixed = Counter(kind for case in CASES for kind in case.fixed)
    rows = report["sources"]["broken"]
    assert rows["in"] == len(CASES) and rows["kept"] == len(CASES) - dropped.total()
    # The row with the repeated id is "0"; so is that of the first line, which has none of its own.
    assert rows["dropped"] == dict(dropped) and rows["fixed"] == dict(fixed)
    assert report["benchmark_overlap"] == {"exact": 0, "perceptual": 2}
    assert set(report["examples"]) == set(dropped) | set(fixed)


def test_every_reason_is_printed_with_its_count_and_one_example(stage):
    _, done, report = stage
    lines = done.stdout.splitlines()
    counts = Counter(case.dropped for case in CASES if case.dropped) + Counter(k for c in CASES for k in c.fixed)
    for kind, example in report["examples"].items():
        at = next(index for index, line in enumerate(lines) if f" {kind}: " in line)
        assert lines[at].split()[0] == str(counts[kind]) and KINDS[kind].meaning in lines[at]
        assert re.search(r"rows\.jsonl, line \d+$", example["location"]) and example["detail"] not in ("", "fixed")
        assert lines[at + 1].strip() == f"e.g. {example['location']}: {example['detail']}"
    # The first line of each kind is its example.
    first = next(number for number, case in enumerate(CASES, 1) if case.dropped == "label")
    assert report["examples"]["label"] == {
        "id": f"broken-{first - 1}-sc",
        "location": f"{stage[0].parent / 'rows.jsonl'}, line {first}",
        "detail": "region 0 has the label ' '",
    }


def test_the_report_is_the_same_from_run_to_run(stage):
    """No memory address is in it."""
    _, done, report = stage
    assert " at 0x" not in done.stdout and " at 0x" not in str(report)


def test_the_kept_rows_are_the_ones_expected(stage):
    from datasets import Dataset

    from data.rows import features

    recipe, _, _ = stage
    rows = Dataset.from_parquet(str(recipe.parent / "data" / "train.parquet"), features=features())
    kept = {number for number, case in enumerate(CASES) if not case.dropped}
    assert {int(name.split("-")[1]) for name in rows["id"]} == kept
    assert all(image.mode == "RGB" for row in rows for image in row["images"])


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
    assert last.startswith("error: ") and "rows.jsonl, line 2" in last and kind in last


def test_a_stage_without_a_row_left_is_an_error(images, tmp_path):
    file = write_lines(tmp_path / "rows.jsonl", [row(SC, images=("a.png", "gone.png"))] * 2)
    source = {"name": "x", "layout": "spatialreward", "path": str(file), "images": str(images), "splits": {"train": 1}}
    done, _ = prepared(data_recipe(tmp_path, [source]))
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "no row was kept: 2 of 2 were dropped as image_missing " in last
    assert "rows.jsonl, line 1" in last and not (tmp_path / "data").exists()
