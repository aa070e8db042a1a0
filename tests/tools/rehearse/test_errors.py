"""A rehearsal ends with status 1 at the stage that meets an error, and its last line names it: four that real data had."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.conftest import ROOT, quiet

pytestmark = pytest.mark.slow
REWARD = """from pathlib import Path

def sometimes(completions, **kwargs):
    return [1.0 if Path("applies").exists() else None] * len(completions)
"""


@pytest.fixture(scope="module")
def rehearse(tmp_path_factory):
    """Rehearses the 8B's recipe, with a reward more, on small images; goes on where the call before ended: (status, lines)."""
    recipe = tmp_path_factory.mktemp("lab") / "recipes" / "lab"
    recipe.mkdir(parents=True)
    (recipe.parent / "accelerate").symlink_to(ROOT / "recipes" / "accelerate")
    for name in ("data", "sft", "mine", "grpo", "eval", "plan"):
        changes = {"extends": str(ROOT / "recipes" / "spatialreward-8b" / f"{name}.yaml")}
        if name == "data":
            changes["output_dir"] = "runs/lab/data"
        if name == "grpo":
            changes |= {
                "reward_funcs": ["box_iou", "format", "lab_reward:sometimes"],
                "reward_weights": [2.0, 1.0, 1.0],
            }
        (recipe / f"{name}.yaml").write_text(yaml.safe_dump(changes))
    (recipe.parent / "lab_reward.py").write_text(REWARD)
    folder = recipe.parents[1] / "rehearsal"

    def run():
        command = [sys.executable, "-m", "tools.rehearse", str(recipe), "--folder", str(folder), "--side", "64"]
        environment = quiet() | {"PYTHONPATH": str(recipe.parent)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    def again_from_data():
        file = folder / "rehearsal.json"
        report = json.loads(file.read_text())
        file.write_text(json.dumps(report | {"stages": report["stages"][:1]}))

    run.folder, run.again_from_data = folder, again_from_data
    return run


def test_a_reward_that_applies_to_no_row(rehearse):
    status, errors = rehearse()
    assert status == 1 and "plan ended with status 1" in errors and "sometimes applies to 0 of" in errors, errors


def test_an_image_token_without_an_image(rehearse):
    """In a text it would be written as plain text by now: here the base's chat template has one too many."""
    (rehearse.folder / "applies").touch()
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
    assert status == 1 and "data ended with status 1" in errors and "images_part_ab" in errors, errors


def test_boxes_in_another_format(rehearse):
    from tests.public_shapes.training import write_spatialreward_train

    raw = rehearse.folder / "raw" / "SpatialReward-Train"
    shutil.rmtree(raw)
    write_spatialreward_train(raw, 120, size=(64, 64), box_format="xyxy_1")
    status, errors = rehearse()
    assert status == 1 and "data ended with status 1" in errors and "xyxy_1" in errors, errors
