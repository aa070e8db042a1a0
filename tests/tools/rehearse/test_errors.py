"""A rehearsal ends with status 1 at the stage that meets an error, and its last line names it: four that real data had."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.conftest import ROOT, quiet

pytestmark = pytest.mark.slow
TRAIN = "raw/SpatialReward-Train/sft"
SOURCES = [
    {
        "name": "spatialreward",
        "layout": "spatialreward",
        "path": f"{TRAIN}/data.jsonl",
        "images": f"{TRAIN}/images_part_",
        "splits": {"train": 80, "validation": 10, "heldout": 10},
    },
    {
        "name": "editscore",
        "layout": "editscore",
        "path": "raw/EditScore-Reward-Data/reward.json",
        "images": "raw/EditScore-Reward-Data/images_part_",
        "splits": {"rl": 1},
    },
]


@pytest.fixture(scope="module")
def rehearse(tmp_path_factory):
    """Rehearses the 8B's recipe, with a reward more, on small images; goes on where the call before ended: (status, lines)."""
    recipe = tmp_path_factory.mktemp("lab") / "recipes" / "lab"
    recipe.mkdir(parents=True)
    (recipe.parent / "accelerate").symlink_to(ROOT / "recipes" / "accelerate")
    for name in ("data", "sft", "mine", "grpo", "eval", "plan"):
        changes = {"extends": str(ROOT / "recipes" / "spatialreward-8b" / f"{name}.yaml")}
        if name == "data":  # no row with a box is for stage 2
            changes |= {"output_dir": "runs/lab/data", "sources": SOURCES}
        (recipe / f"{name}.yaml").write_text(yaml.safe_dump(changes))
    folder = recipe.parents[1] / "rehearsal"

    def run():
        command = [sys.executable, "-m", "tools.rehearse", str(recipe), "--folder", str(folder), "--side", "64"]
        done = subprocess.run(command, cwd=ROOT, env=quiet(), capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    def again_from_data():
        file = folder / "rehearsal.json"
        report = json.loads(file.read_text())
        file.write_text(json.dumps(report | {"stages": report["stages"][:1]}))

    run.folder, run.again_from_data = folder, again_from_data
    return run


def test_a_reward_that_applies_to_no_row(rehearse):
    status, errors = rehearse()
    assert status == 1 and "plan ended with status 1" in errors and "box_iou applies to 0 of" in errors, errors


def test_an_image_token_without_an_image(rehearse):
    """In a text it would be written as plain text by now: here the base's chat template has one too many."""
    data = rehearse.folder / "runs" / "lab" / "data"
    shutil.copyfile(data / "train.parquet", data / "rl.parquet")  # it has boxes
    template = rehearse.folder / "Qwen" / "Qwen3-VL-8B-Instruct" / "chat_template.jinja"
    text = template.read_text(encoding="utf-8")
    template.write_text(text.replace("<|im_end|>", "<|image_pad|><|im_end|>"), encoding="utf-8")
    status, errors = rehearse()
    assert status == 1 and "sft ended with status 1" in errors, errors
    assert "its text holds more image tokens than it has images" in errors, errors


def test_a_missing_part_of_the_images(rehearse):
    rehearse.again_from_data()
    shutil.rmtree(rehearse.folder / "runs")
    [part] = (rehearse.folder / "raw" / "SpatialReward-Train" / "sft").glob("images_part_ab")
    part.rename(rehearse.folder / "kept")
    status, errors = rehearse()
    (rehearse.folder / "kept").rename(part)
    assert status == 1 and "data ended with status 1" in errors, errors
    assert "images_part_ac does not follow images_part_aa" in errors, errors


def test_boxes_in_another_format(rehearse):
    from tests.public_shapes.training import write_spatialreward_train

    raw = rehearse.folder / "raw" / "SpatialReward-Train"
    shutil.rmtree(raw)
    write_spatialreward_train(raw, 120, size=(64, 64), box_format="xyxy_1")
    status, errors = rehearse()
    assert status == 1 and "data ended with status 1" in errors and "xyxy_1" in errors, errors
