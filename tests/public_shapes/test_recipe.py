"""The data stage of the 8B recipe, as it is but for its paths, on the public datasets' shapes."""

import json
from collections import Counter

import pytest
import yaml

from spatial_edit_reward import load_spec
from tests.conftest import ROOT, run_stage
from tests.public_shapes.__main__ import write_raw
from tests.public_shapes.draw import SMALL, draw_edits
from tests.public_shapes.training import EDITSCORE, spatial_prompt

ROWS = 120  # with fewer, the recipe's shares leave a split empty


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the folder that the stage wrote, its report)."""
    folder = tmp_path_factory.mktemp("recipe")
    write_raw(folder / "raw", ROWS, size=SMALL)
    text = (ROOT / "recipes" / "spatialreward-8b" / "data.yaml").read_text().replace(" raw/", f" {folder}/raw/")
    recipe = yaml.safe_load(text) | {"output_dir": str(folder / "data"), "processes": 2}
    (folder / "data.yaml").write_text(yaml.safe_dump(recipe))
    done = run_stage("data", "--config", folder / "data.yaml")
    assert done.returncode == 0, done.stderr
    return folder / "data", json.loads((folder / "data" / "data_report.json").read_text())


@pytest.mark.slow
def test_every_row_is_kept_or_accounted_for(made):
    _, report = made
    sources = report["sources"]
    assert sources["spatialreward-rl"]["in"] == 2 * (ROWS // 3 + ROWS // 6)
    assert sources["spatialreward"]["in"] == sources["spatialreward"]["kept"] == 2 * ROWS
    assert 0 < sources["editscore"]["in"] < ROWS and 0 < sources["editreward"]["in"] < ROWS  # `subsample`
    assert sources["spatialreward-rl"]["dropped"] == {"joined": 2 * (ROWS // 3), "no_verdict": 2 * (ROWS // 6)}
    assert sources["spatialreward"]["fixed"] == {}
    for name, rows in sources.items():
        assert rows["kept"] + sum(rows["dropped"].values()) == rows["in"], name
        assert set(rows["dropped"]) <= {"no_verdict", "joined", "other_split"}, name
    assert report["benchmark_overlap"] == {"exact": 0, "perceptual": 0}


@pytest.mark.slow
def test_no_split_is_empty_and_stage_2_has_boxes(made):
    _, report = made
    splits = report["splits"]
    assert set(splits) == {"train", "validation", "rl", "heldout"}
    assert all(rows["sc"] and rows["pq"] for rows in splits.values()), splits
    assert splits["rl"]["sc_with_region"] >= 0.05 * splits["rl"]["rows"]
    assert splits["train"]["rows"] > ROWS


@pytest.mark.slow
def test_the_model_is_asked_with_the_published_prompts(made):
    folder, _ = made
    spec = load_spec(folder)
    for group, _ in draw_edits(0, 0, 20, SMALL):
        for task in ("sc", "pq"):
            assert spec.prompt(task, group.instruction).strip() == spatial_prompt(group, task).strip()


@pytest.mark.slow
def test_every_row_has_its_own_images_and_verdict(made):
    from pyarrow import parquet

    folder, _ = made
    columns = ["id", "task", "images", "reference"]
    rows = {
        row["id"]: row
        for file in folder.glob("*.parquet")
        for row in parquet.read_table(file, columns=columns).to_pylist()
    }
    for number, (group, edit) in enumerate(draw_edits(0, 0, ROWS, SMALL)):
        sc, pq = rows[f"spatialreward-{2 * number}-sc"], rows[f"spatialreward-{2 * number + 1}-pq"]
        assert [image["bytes"] for image in sc["images"]] == [group.source, edit.jpeg]
        assert [image["bytes"] for image in pq["images"]] == [edit.jpeg]
        assert sc["reference"] == edit.sc and pq["reference"] == edit.pq


@pytest.mark.slow
def test_no_edit_is_in_two_splits_and_instructions_are_as_written(made):
    from pyarrow import parquet

    folder, _ = made
    columns = ["id", "instruction", "group", "task", "source"]
    rows = {file.stem: parquet.read_table(file, columns=columns).to_pylist() for file in folder.glob("*.parquet")}
    groups = {split: {row["group"] for row in of_split} - {None} for split, of_split in rows.items()}
    assert set(Counter(group for of_split in groups.values() for group in of_split).values()) == {1}
    for split in ("train", "validation", "heldout"):  # the other sources share images with these, and name `rl` alone
        assert {row["source"] for row in rows[split]} == {"spatialreward"}
    alone = [row for of_split in rows.values() for row in of_split if row["group"] is None]
    assert all(
        row["task"] == "pq" and row["source"] == "editscore" for row in alone
    )  # `subsample` left its `sc` row out
    written = {group.instruction for first in (0, EDITSCORE) for group, _ in draw_edits(0, first, ROWS, SMALL)}
    read = {row["instruction"] for split in rows.values() for row in split if row["task"] == "sc"}
    assert (
        len(read & written) > 0.9 * ROWS and any("\n" in text for text in read) and any("$20" in text for text in read)
    )
