"""SpatialReward-Train with one thing amiss in it: the data stage ends with status 1 and a line that says what it is."""

import json
import re

import pytest

from tests.data.conftest import data_recipe, run_module
from tests.public_shapes.draw import SMALL
from tests.public_shapes.training import write_spatialreward_train


def lose_a_part(folder):
    (folder / "sft" / "images_part_ac").unlink()


def lose_the_last_part(folder):
    (folder / "sft" / "images_part_am").unlink()


def break_off(folder):
    file = folder / "sft" / "data.jsonl"
    content = file.read_bytes()
    file.write_bytes(content[: content.rindex(b"gpt")])


def name_one_image(folder):
    file = folder / "sft" / "data.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["image"] = row["image"][0] if isinstance(row["image"], list) else row["image"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "plant", "message"),
    [
        ({}, lose_a_part, "images_part_ad does not follow images_part_ab: download the part between them"),
        ({}, lose_the_last_part, "no complete tar archive: .*: download its parts again"),
        ({}, break_off, "it breaks off in line 48: download it again"),
        (
            {},
            name_one_image,
            "24 of 48 rows were dropped, too many to go on .*: one image, and a verdict with edit_region",
        ),
        ({"keys": {"conversations": "dialogs"}}, None, "'sft' has no prompt in common: .* no_instruction"),
        (
            {"keys": {"image": "image_path"}},
            None,
            "'sft' has no prompt in common: 48 of the first 48 rows are no_images",
        ),
        ({"score_range": 100}, None, "48 of 48 were dropped as score_outside"),
        ({"box_format": "xywh_pixel"}, None, "write `box_format: xywh_pixel`"),
    ],
)
def test_what_is_amiss_ends_the_stage_in_one_line(tmp_path, options, plant, message):
    folder = tmp_path / "train"
    write_spatialreward_train(folder, 24, size=SMALL, **options)
    if plant:
        plant(folder)
    sft = {"name": "sft", "layout": "spatialreward", "path": str(folder / "sft" / "data.jsonl"), "splits": {"train": 1}}
    recipe = data_recipe(tmp_path, [sft | {"images": str(folder / "sft" / "images_part_")}], prompt_from="sft")
    done = run_module("data", "--config", str(recipe))
    assert done.returncode == 1 and not (tmp_path / "data" / "train.parquet").exists()
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and len(last) < 500
    assert re.search(message, last), last
