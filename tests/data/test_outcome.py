"""Nothing kept is no success; rows without an answer are joined to the row that has it; what is odd about a source is noted."""

import json

import pytest

from data.rows import load_rows
from spatial_edit_reward import load_spec
from tests.data.broken_rows import PQ, SC, row
from tests.data.conftest import data_recipe, noise, prepared, write_lines

NAMES = [f"Make cup {number} blue." for number in range(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve edits as images, twice: `rl/` has them under other names."""
    folder = tmp_path_factory.mktemp("edits")
    for name in ("sft", "rl"):
        (folder / name).mkdir()
        for number in range(len(NAMES)):
            for side in range(2):
                image = folder / name / f"{number if name == 'sft' else 99 - number}_{side}.png"
                noise(2 * number + side).save(image)
    return folder


def answered(number, task="sc", **changes):
    images = (f"sft/{number}_0.png", f"sft/{number}_1.png") if task == "sc" else (f"sft/{number}_1.png",)
    return row(SC if task == "sc" else PQ, images=images, instruction=NAMES[number], **changes)


def answerless(number, task="sc", instruction=None, **changes):
    """As `rl/data.json` has them: images, instruction and `solution`, and no answer."""
    images = [f"rl/{99 - number}_0.png", f"rl/{99 - number}_1.png"][task == "pq" :]
    return {"images": images, "instruction": instruction or NAMES[number], "solution": task, **changes}


def source(file, folder, name="sft", layout="spatialreward", **changes):
    return {"name": name, "layout": layout, "path": str(file), "images": str(folder), **changes}


def rows_of(folder):
    spec = load_spec(folder)
    return {file.stem: list(load_rows(file, spec)) for file in folder.glob("*.parquet")}


def last_line(done):
    return done.stderr.strip().splitlines()[-1]


def test_rows_without_an_answer_give_rl_the_rows_that_have_it(folder, tmp_path):
    sft = [answered(number, task) for number in range(10) for task in ("sc", "pq")]
    rl = [answerless(number, task) for number in range(3) for task in ("sc", "pq")]
    rl[1]["solution"] = "PQ score"  # as the published reward reads it: "pq" in solution.lower()
    rl += [answerless(11), answerless(3, instruction="Make it red.")]
    (tmp_path / "data.json").write_text(json.dumps(rl), encoding="utf-8")
    sources = [
        source(tmp_path / "data.json", folder, "rl", splits={"rl": 1}),
        source(write_lines(tmp_path / "sft.jsonl", sft), folder, splits={"train": 8, "heldout": 2}),
    ]
    done, report = prepared(data_recipe(tmp_path, sources))
    assert done.returncode == 0, done.stderr
    split_of = {name["id"]: split for split, rows in rows_of(tmp_path / "data").items() for name in rows}
    assert {name for name, split in split_of.items() if split == "rl"} == {
        f"sft-{2 * number + at}-{task}" for number in range(3) for at, task in enumerate(("sc", "pq"))
    }
    assert len(split_of) == 20  # each edit once, in one split
    rl_rows = rows_of(tmp_path / "data")["rl"]
    assert all(kept["reference"]["edit_region"] for kept in rl_rows if kept["task"] == "sc")
    assert report["sources"]["rl"]["dropped"] == {"joined": 6, "no_verdict": 2}
    assert report["joined"] == {"rl": {"rl": 6, "not joined": 2}}
    assert "rl: rows without an answer, by the split of the row that has it: 6 rl, 2 not joined" in done.stdout
    assert "nor in a row with its images and instruction" in report["examples"]["no_verdict"]["detail"]


def test_the_source_that_comes_first_decides_where_a_joined_row_is(folder, tmp_path):
    sft = [answered(number) for number in range(5)]
    sources = [
        source(write_lines(tmp_path / "sft.jsonl", sft), folder, splits={"train": 1}),
        source(write_lines(tmp_path / "rl.jsonl", [answerless(1), answerless(2)]), folder, "rl", splits={"rl": 1}),
        source(write_lines(tmp_path / "more.jsonl", [answered(7)]), folder, "more", splits={"rl": 1}),
    ]
    done, report = prepared(data_recipe(tmp_path, sources))
    assert done.returncode == 0, done.stderr
    assert report["joined"] == {"rl": {"train": 2}}
    assert {split: len(rows) for split, rows in rows_of(tmp_path / "data").items()} == {"train": 5, "rl": 1}


def test_a_row_is_in_no_split_that_its_source_does_not_name(folder, tmp_path):
    sources = [
        source(write_lines(tmp_path / "sft.jsonl", [answered(n) for n in range(5)]), folder, splits={"train": 1}),
        source(
            write_lines(tmp_path / "pq.jsonl", [answered(n, "pq") for n in range(8)]), folder, "pq", splits={"rl": 1}
        ),
    ]
    done, report = prepared(data_recipe(tmp_path, sources))
    assert done.returncode == 0, done.stderr
    assert report["sources"]["pq"]["dropped"] == {"other_split": 5}
    assert {split: {made["source"] for made in rows} for split, rows in rows_of(tmp_path / "data").items()} == {
        "train": {"sft"},
        "rl": {"pq"},
    }


def test_a_pq_row_needs_no_instruction_to_be_the_same_edit(folder, tmp_path):
    prompts = {"messages": [{"role": "user", "content": "Rate it."}, {"role": "assistant", "content": json.dumps(PQ)}]}
    sft = [answered(number, "pq", **prompts) for number in range(3)]
    for made in sft:
        del made["instruction"]
    sources = [
        source(write_lines(tmp_path / "rl.jsonl", [answerless(1, "pq")]), folder, "rl", splits={"rl": 1}),
        source(write_lines(tmp_path / "sft.jsonl", sft), folder, splits={"train": 1}),
    ]
    done, report = prepared(data_recipe(tmp_path, sources))
    assert done.returncode == 0, done.stderr
    assert report["joined"] == {"rl": {"rl": 1}} and report["splits"]["rl"]["pq"] == 1


def test_a_source_that_loses_all_its_rows_ends_the_stage(folder, tmp_path):
    """Beside a good one, and before the images of the sources after it are read."""
    gone = [row(SC, images=("sft/0_0.png", f"sft/gone{number}.png"), instruction="Do it.") for number in range(3)]
    bad = write_lines(tmp_path / "bad.jsonl", [*gone, answered(9, messages=[{"role": "user", "content": "What?"}])])
    good = source(write_lines(tmp_path / "sft.jsonl", [answered(n) for n in range(5)]), folder, splits={"train": 1})
    for sources in (
        [good, source(bad, folder, "bad", splits={"rl": 1})],
        [source(bad, folder, "bad", splits={"rl": 1}), good],
    ):
        done, _ = prepared(data_recipe(tmp_path, sources))
        assert done.returncode == 1 and not (tmp_path / "data").exists()
        assert "source 'bad': no row was kept: 3 of 4 were dropped as image_missing (" in last_line(done)
        assert "bad.jsonl, line 1" in last_line(done) and "gone0.png" in last_line(done)


def test_a_source_that_loses_half_of_its_rows_or_a_whole_task_ends_the_stage(folder, tmp_path):
    good = [answered(n % 12, id=f"g{n}") for n in range(24)]
    one_image = [answered(n % 12, id=f"b{n}") | {"images": ["sft/0_1.png"]} for n in range(24)]
    prose = [row("It is fine.", images=("sft/0_1.png",), instruction=f"Do {n}.") for n in range(20)]
    for bad, counts in ((one_image, "24 of 48 rows"), (prose, "20 of 20 pq rows")):
        rows = write_lines(tmp_path / "sft.jsonl", [*good, *bad])
        sources = [source(rows, folder, splits={"train": 1})]
        done, _ = prepared(data_recipe(tmp_path, sources))
        assert done.returncode == 1 and not (tmp_path / "data").exists()
        assert f"source 'sft': {counts} were dropped, too many to go on" in last_line(done)
        assert "sft.jsonl, line 25" in last_line(done)
    done, report = prepared(data_recipe(tmp_path, sources, max_dropped=1))
    assert done.returncode == 0 and report["sources"]["sft"]["kept"] == 24


def test_rows_that_cannot_be_read_are_blamed_not_their_prompts(folder, tmp_path):
    other_key = [
        {("picture_paths" if key == "images" else key): value for key, value in answered(n).items()} for n in range(5)
    ]
    sources = [source(write_lines(tmp_path / "sft.jsonl", other_key), folder, splits={"train": 1})]
    done, _ = prepared(data_recipe(tmp_path, sources, prompt_from="sft"))
    assert done.returncode == 1
    assert "5 of the first 5 rows are no_images, e.g. " in last_line(done) and "sft.jsonl, line 1" in last_line(done)


def test_rows_that_nothing_answers_end_the_stage(folder, tmp_path):
    sources = [
        source(write_lines(tmp_path / "rl.jsonl", [answerless(9), answerless(10)]), folder, "rl", splits={"rl": 1}),
        source(write_lines(tmp_path / "sft.jsonl", [answered(n) for n in range(5)]), folder, splits={"train": 1}),
    ]
    done, _ = prepared(data_recipe(tmp_path, sources))
    assert done.returncode == 1
    assert "source 'rl': no row was kept: 2 of 2 were dropped as no_verdict" in last_line(done)


def test_an_empty_file_ends_the_stage(folder, tmp_path):
    sources = [
        source(write_lines(tmp_path / "none.jsonl", []), folder, "none", splits={"rl": 1}),
        source(write_lines(tmp_path / "sft.jsonl", [answered(n) for n in range(5)]), folder, splits={"train": 1}),
    ]
    done, _ = prepared(data_recipe(tmp_path, sources))
    assert done.returncode == 1 and "source 'none': no row was kept: it holds none" in last_line(done)


def test_a_split_without_a_row_ends_the_stage(folder, tmp_path):
    file = write_lines(tmp_path / "sft.jsonl", [answered(n) for n in range(5)])
    done, _ = prepared(
        data_recipe(tmp_path, [source(file, folder, splits={"train": 97, "validation": 1, "heldout": 2})])
    )
    assert done.returncode == 1 and not (tmp_path / "data").exists()
    assert "no row is in validation: its share in `splits` of sft is too small" in last_line(done)
    words = {"reasoning": "It was done well enough.", "score": [3, 4]}
    bare = [row(words, images=("sft/0_0.png", f"sft/{n}_1.png"), instruction=NAMES[n]) for n in range(5)]
    score = source(write_lines(tmp_path / "bare.jsonl", bare), folder, "score", "editscore", splits={"train": 1})
    good = source(file, folder, splits={"rl": 1})
    done, _ = prepared(data_recipe(tmp_path, [good, score]))
    assert done.returncode == 1
    assert "source 'score': no row was kept: " in last_line(done) or "no row is in train" in last_line(done)


def test_first_rows_that_are_all_lost_are_told_at_once(folder, tmp_path):
    gone = [row(SC, images=("sft/0_0.png", "sft/gone.png"), instruction=f"Do {number}.") for number in range(1100)]
    file = write_lines(tmp_path / "rows.jsonl", [*gone, *(answered(n) for n in range(12))])
    done, report = prepared(data_recipe(tmp_path, [source(file, folder, splits={"train": 1})], max_dropped=1))
    assert done.returncode == 0 and report["sources"]["sft"]["kept"] == 12
    assert "warning: the first 10" in done.stderr and "rows of 'sft' are lost: 10" in done.stderr


def test_duplicates_and_low_scores_are_noted(folder, tmp_path):
    low = [
        row({**SC, "score": [3 + n, 10]}, images=(f"sft/{n}_0.png", f"sft/{n}_1.png"), instruction=NAMES[n])
        for n in range(5)
    ]
    sources = [
        source(write_lines(tmp_path / "low.jsonl", [*low, low[0], low[0]]), folder, "low", splits={"train": 1}),
        source(write_lines(tmp_path / "sft.jsonl", [answered(n) for n in range(3, 9)]), folder, splits={"train": 1}),
    ]
    done, report = prepared(data_recipe(tmp_path, sources))
    assert done.returncode == 0, done.stderr
    assert report["duplicates"] == {"low": {"low": 2}, "sft": {"low": 2}}
    assert "sft: rows with the images and instruction of an earlier row: 2 of low" in done.stdout
    (note,) = report["notes"]
    assert note.startswith("low: no score is above 10 of the declared 0..25: write `score_range: [0, 10]`")
    assert f"note: {note}" in done.stdout


def test_a_share_of_a_source_is_drawn_with_whole_groups(folder, tmp_path):
    rows = [answered(n % 12, group=str(n % 12), id=str(n)) for n in range(48)]
    sources = [source(write_lines(tmp_path / "sft.jsonl", rows), folder, splits={"train": 1}, subsample=0.5)]
    done, report = prepared(data_recipe(tmp_path, sources))
    assert done.returncode == 0, done.stderr
    kept = report["sources"]["sft"]["in"]
    assert 0 < kept < 48 and kept % 4 == 0
    again, same = prepared(data_recipe(tmp_path, sources, seed=1))
    groups = {made["group"] for made in rows_of(tmp_path / "data")["train"]}
    assert again.returncode == 0 and same["sources"]["sft"]["kept"] == 4 * len(groups)


def test_a_report_on_100000_rows_is_as_short_as_on_a_few():
    from data.cleaning.fixer import RowError
    from data.cleaning.prepare import RowRecord
    from data.recipe import DataRecipe, Source
    from data.report import make_report
    from data.sources import RowSource
    from data.splits import assign_splits, join_answerless

    def report(count):
        records = []
        for number in range(count):
            edit = (number // 2).to_bytes(16, "big")
            row = RowRecord(f"rows, line {number}", f"x-{number}", "x", words=edit[8:], image_hashes=(edit,))
            row.has_verdict, row.sizes, row.score, row.stored = True, ((512, 512),), (20.0, number % 26), True
            if number % 2:
                row.error = RowError("no_verdict", "none")
            records.append(row)
        sources = [RowSource("x", {"train": 97, "rl": 3}, lambda size: iter(()))]
        joined = join_answerless(records)
        assign_splits(records, sources, 0, joined)
        source = Source(name="x", layout="sharegpt", path="x", splits={"train": 1})
        pixels = {"min": 4096, "max": 262144, "multiple": 32}
        recipe = DataRecipe(output_dir="x", sources=[source], pixels=pixels, max_new_tokens=1024)
        return make_report(recipe, sources, records, {}, recipe.spec(), {})

    few, many = report(100), report(100_000)
    assert many["splits"]["train"]["rows"] == 48_500 and many["splits"]["rl"]["rows"] == 1_500
    assert many["joined"] == {"x": {"train": 48_500, "rl": 1_500}}
    assert len(json.dumps(many)) < 1.2 * len(json.dumps(few))
