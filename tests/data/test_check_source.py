"""What a recipe assumes of a download is tried on its first rows: the public shapes pass, what is planted is named."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.data.conftest import run_module
from tests.public_shapes.__main__ import write_raw
from tests.public_shapes.draw import SMALL
from tests.public_shapes.training import write_spatialreward_train


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("public") / "raw"
    write_raw(folder, 24, size=SMALL)
    return folder


def check(folder: Path, raw: Path, name: str = "all", **changes):
    """(exit status, source -> assumption -> (result, what was seen, what to change), last line of stderr)."""
    text = (ROOT / "recipes" / "spatialreward-8b" / "data.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(text.replace(" raw/", f" {raw}/")) | {"output_dir": str(folder / "data"), "processes": 1}
    for source in recipe["sources"]:
        source |= changes if name == source["name"] else {}
    (folder / "data.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    done = run_module("data", "--config", str(folder / "data.yaml"), "--check_source", name)
    tables: dict[str, dict[str, list[str]]] = {}
    row: list[str] = []
    for line in done.stdout.splitlines():
        cells = [cell.strip() for cell in line.strip("│┃ ").split("│")]
        if line.startswith("│"):
            cells = [cell.strip() for cell in line[1:-1].split("│")]
            if cells[0]:
                row = cells[1:]
                tables[list(tables)[-1]][cells[0]] = row
            else:
                row[:] = [f"{old} {new}".strip() for old, new in zip(row, cells[1:], strict=True)]
        elif line and line[0].isalpha():
            tables[line.split()[0]] = {}
    return done.returncode, tables, (done.stderr.strip().splitlines() or [""])[-1]


def test_all_of_it_holds_on_the_public_shapes(raw, tmp_path):
    status, tables, last = check(tmp_path, raw)
    assert status == 0, last
    assert list(tables) == ["spatialreward-rl", "spatialreward", "editscore", "editreward"]
    assert {cells[0] for lines in tables.values() for cells in lines.values()} == {"ok"}
    spatial = tables["spatialreward"]
    assert {
        "keys",
        "images are there",
        "sc prompts",
        "pq prompts",
        "answers",
        "boxes",
        "scores",
        "ids",
        "splits",
    } <= set(spatial)
    assert spatial["keys"][1] == "image, conversations"
    assert spatial["images of a row"][1] == "24 rows name 1, 24 rows name 2"
    assert "24 of 24 explained by" in spatial["pq prompts"][1] and "$instruction" in spatial["sc prompts"][1]
    assert "declared 0 to 25" in spatial["scores"][1] and "fit xyxy_1000" in spatial["boxes"][1]
    answers = tables["spatialreward-rl"]["answers"][1]
    assert answers.startswith("0 of 24 rows have one; 8 others have the instruction of one of 48 rows of spatialreward")
    assert "declared 1 to 4" in tables["editreward"]["scores"][1]
    assert not (raw / "EditScore-Reward-Data" / "unpacked").exists()  # which takes hours for 160 GB


def test_of_a_long_archive_the_beginning_is_read(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("data.first_images.SAMPLE", 20_000)
    status, tables, last = check(tmp_path, raw)
    assert status == 0, last
    for name in ("spatialreward", "editscore"):
        seen = tables[name]["images are there"][1]
        assert (
            "the archive begins with images/0_0.jpg" in seen
            and " of 48 rows have theirs among its first images" in seen
        )
    answers = tables["spatialreward-rl"]["answers"][1]
    assert "8 others have the instruction of one of 48 rows of spatialreward" in answers
    write_spatialreward_train(tmp_path / "raw" / "SpatialReward-Train", 30, size=SMALL, box_format="xywh_pixel")
    status, tables, last = check(tmp_path, changed(tmp_path / "raw", tmp_path / "moved", in_folder), "spatialreward")
    assert status == 1 and tables["spatialreward"]["boxes"][2] == "box_format: xywh_pixel"
    assert tables["spatialreward"]["images are there"][::2] == ["FAILS", "images"]


@pytest.mark.parametrize("box_format", ["xyxy_1", "xyxy_pixel", "xywh_pixel"])
def test_boxes_of_another_format_are_named_with_the_line_to_write(raw, tmp_path, box_format):
    write_spatialreward_train(tmp_path / "raw" / "SpatialReward-Train", 30, size=SMALL, box_format=box_format)
    status, tables, last = check(tmp_path, tmp_path / "raw", "spatialreward")
    assert status == 1 and last.startswith("error: ") and f"spatialreward: boxes (box_format: {box_format})" in last
    result, seen, change = tables["spatialreward"]["boxes"]
    assert result == "FAILS" and change == f"box_format: {box_format}"
    assert "data.jsonl,line" in seen.replace(" ", "")  # where a path is too long for a line, it is broken in two
    status, tables, _ = check(tmp_path, tmp_path / "raw", "spatialreward", box_format=box_format)
    assert status == 0 and tables["spatialreward"]["boxes"][0] == "ok"


def test_scores_of_another_range_are_named(raw, tmp_path):
    write_spatialreward_train(tmp_path / "raw" / "SpatialReward-Train", 20, size=SMALL, score_range=10)
    status, tables, last = check(tmp_path, tmp_path / "raw", "spatialreward")
    assert status == 1 and tables["spatialreward"]["scores"][2] == "score_range: [0, 10]"
    write_spatialreward_train(tmp_path / "more" / "SpatialReward-Train", 20, size=SMALL, score_range=100)
    status, tables, last = check(tmp_path, tmp_path / "more", "spatialreward")
    assert status == 1 and tables["spatialreward"]["scores"][0] == "FAILS" and "scores (score_range)" in last
    assert "score_outside" in tables["spatialreward"]["scores"][1]


def changed(raw: Path, folder: Path, change) -> Path:
    """A copy of the public files in which every row of `sft/data.jsonl` went through `change`."""
    shutil.copytree(raw / "SpatialReward-Train", folder / "raw" / "SpatialReward-Train")
    file = folder / "raw" / "SpatialReward-Train" / "sft" / "data.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    file.write_text("".join(json.dumps(change(row)) + "\n" for row in rows), encoding="utf-8")
    return folder / "raw"


def in_folder(row):
    names = row["image"] if isinstance(row["image"], list) else [row["image"]]
    return row | {"image": [f"data/{name}" for name in names]}


def renamed(old, new):
    return lambda row: {new if key == old else key: value for key, value in row.items()}


def answer(row, text):
    return row | {"conversations": [row["conversations"][0], {"from": "gpt", "value": text}]}


ANSWERS = "sources: one with the same edits and answers"
PLANTED = {
    "images under another key": (renamed("image", "picture_paths"), "images of a row", "layout, or columns"),
    "images in another folder": (in_folder, "images are there", "images"),
    "no conversation": (
        renamed("conversations", "dialog"),
        "instruction",
        "prompt_from, or columns",
    ),
    "no answers": (lambda row: row | {"conversations": row["conversations"][:1]}, "answers", ANSWERS),
    "prose for verdicts": (lambda row: answer(row, "The edit is fine."), "verdicts", "layout, or policy"),
    "a name of another convention": (
        lambda row: json.loads(json.dumps(row).replace("bbox_2d", "box_2d")),
        "boxes",
        "box_format",
    ),
    "one id for all": (lambda row: row | {"id": "a"}, "ids", ""),
    "prompts that have nothing in common": (
        lambda row: row | {"conversations": [{"from": "human", "value": f"{hash(str(row))}"}, row["conversations"][1]]},
        "sc prompts",
        "prompt_from, or prompts",
    ),
    "rows that are texts": (json.dumps, "keys", "layout, or columns"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_is_named_with_an_example_and_the_line_to_change(raw, tmp_path, planted):
    change, assumption, advice = PLANTED[planted]
    status, tables, last = check(tmp_path, changed(raw, tmp_path, change), "spatialreward")
    result, seen, advised = tables["spatialreward"][assumption]
    assert status == 1 and result == "FAILS" and advised == advice and seen
    assert f"spatialreward: {assumption}" in last and "Traceback" not in last
    assert not (tmp_path / "data").exists()


def test_files_that_are_not_there_are_one_line_of_the_table(raw, tmp_path):
    shutil.copytree(raw / "SpatialReward-Train", tmp_path / "raw" / "SpatialReward-Train")
    (tmp_path / "raw" / "SpatialReward-Train" / "sft" / "images_part_ac").unlink()
    (tmp_path / "raw" / "SpatialReward-Train" / "rl" / "data.json").unlink()
    status, tables, _ = check(tmp_path, tmp_path / "raw")
    assert status == 1
    assert "images_part_ad does not follow images_part_ab" in tables["spatialreward"]["files"][1]
    assert "no such file" in tables["spatialreward-rl"]["files"][1]
    assert list(tables) == ["spatialreward-rl", "spatialreward", "editscore", "editreward"]


def test_a_source_that_is_none_is_refused(raw, tmp_path):
    status, _, last = check(tmp_path, raw, "spatial")
    assert (
        status == 1 and "no source 'spatial'; there are spatialreward-rl, spatialreward, editscore, editreward" in last
    )


def test_x_and_y_exchanged_show_in_what_the_edit_changed(raw, tmp_path):
    """No number of a box tells it: the key is ours, and all corners are within 0..1000."""
    write_spatialreward_train(tmp_path / "raw" / "SpatialReward-Train", 40, size=SMALL, box_format="yxyx_1000")
    status, tables, last = check(tmp_path, tmp_path / "raw", "spatialreward")
    assert (
        status == 1
        and tables["spatialreward"]["boxes"][2] == "box_format: yxyx_1000"
        and "look exchanged" in last + str(tables)
    )
    status, tables, _ = check(tmp_path, tmp_path / "raw", "spatialreward", box_format="yxyx_1000")
    assert status == 0
    status, tables, _ = check(tmp_path, raw, "spatialreward", box_format="yxyx_1000")
    assert status == 1 and tables["spatialreward"]["boxes"][2] == "box_format: xyxy_1000"
