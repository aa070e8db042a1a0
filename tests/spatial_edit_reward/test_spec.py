"""`verdict.json` comes back as it was saved, and says what is wrong with it; the aggregate is the paper's."""

import json
import math
import subprocess
import sys

import pytest

from spatial_edit_reward import Spec, SpecError, aggregate, load_spec, save_spec

SPEC = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=320)


def test_saved_and_loaded_is_the_same(tmp_path):
    save_spec(SPEC, tmp_path)
    assert load_spec(tmp_path) == SPEC


def test_prompt_holds_instruction_and_range():
    prompt = SPEC.prompt("sc", "Paint the $5 cup {red}.")
    assert "Paint the $5 cup {red}." in prompt
    assert "from 0 to 25" in prompt and "$" not in prompt.replace("$5", "")


def test_missing_spec_names_the_folder(tmp_path):
    with pytest.raises(SpecError, match=str(tmp_path)):
        load_spec(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"prompts": {"sc": "x", "pq": "y"}}, "instruction"),
        ({"colour": 1}, "colour"),
        ({"score_range": [25, 0]}, "score_range"),
    ],
)
def test_wrong_spec_names_file_and_field(tmp_path, change, said):
    save_spec(SPEC, tmp_path)
    file = tmp_path / "verdict.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(SpecError, match=f"verdict.json.*{said}"):
        load_spec(tmp_path)


def test_aggregate_is_the_papers():
    assert aggregate([25, 25], [25, 25], SPEC) == 1.0
    assert aggregate([0, 0], [25, 25], SPEC) == 0.0
    expected = ((0.6 * 20 + 0.4 * 10) / 25) ** 0.8 * ((0.5 * 15 + 0.5 * 5) / 25) ** 0.2
    assert math.isclose(aggregate([20, 10], [15, 5], SPEC), expected)


@pytest.mark.parametrize("package", ["verdict", "rewards_fn"])
def test_imports_no_torch(package):
    code = f"import {package}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
