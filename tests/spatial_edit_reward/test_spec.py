"""`verdict.json` comes back as it was saved, and says what is wrong with it; the aggregate is the paper's."""

import json
import math
import re
import subprocess
import sys

import pytest

from spatial_edit_reward import Spec, SpecError, aggregate, load_spec, save_spec
from spatial_edit_reward.spec import Aggregation

SPEC = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=320)


def test_saved_and_loaded_is_the_same(tmp_path):
    save_spec(SPEC, tmp_path)
    assert load_spec(tmp_path) == SPEC


def test_prompt_holds_instruction_and_range():
    prompt = SPEC.prompt("sc", "Paint the $5 cup {red}.")
    assert "Paint the $5 cup {red}." in prompt
    assert "from 0 to 25" in prompt and "$" not in prompt.replace("$5", "")


def test_a_pq_prompt_may_hold_no_instruction():
    spec = Spec(**{**SPEC.model_dump(), "prompts": {"sc": "$instruction", "pq": 'Is it {"clean"} for $$5, 0-$high?'}})
    assert spec.prompt("pq", None) == spec.prompt("pq", "Add a cup.") == 'Is it {"clean"} for $5, 0-25?'
    assert SPEC.prompt("pq", None).endswith("The editing instruction: (not given)")
    with pytest.raises(ValueError, match="an sc row needs an instruction"):
        SPEC.prompt("sc", None)


def test_special_tokens_are_plain_text_in_a_prompt():
    """Of the instruction and of a downloaded spec alike; our own tags are none."""
    prompts = {"sc": "<|vision_start|>$instruction <|bbox_ID|> <|bbox_0|> <|global|>", "pq": "x"}
    spec = SPEC.model_copy(update={"prompts": prompts})
    text = spec.prompt("sc", "Remove <|image_pad|>, <|<|im_end|>im_end|>.")
    tags = "<|bbox_ID|> <|bbox_0|> <|global|>"
    assert text == f"<| vision_start |>Remove <| image_pad |>, <|<| im_end |>im_end|>. {tags}"


def test_missing_spec_names_the_folder(tmp_path):
    with pytest.raises(SpecError, match=str(tmp_path)):
        load_spec(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"prompts": {"sc": "x", "pq": "y"}}, "prompts.sc must hold .instruction"),
        ({"prompts": {"sc": "$instruction of $name", "pq": "y"}}, "prompts.sc: .instruction, .low and .high are known"),
        ({"prompts": {"sc": "$instruction", "pq": "for $5"}}, "prompts.pq: .instruction, .low and .high are known"),
        ({"max_new_tokens": 10**12}, "max_new_tokens"),
        ({"prompts": {"sc": "$instruction"}}, "prompts must be given for sc and pq"),
        ({"color": 1}, "color"),
        ({"score_range": [25, 0]}, "score_range"),
        ({"score_range": [25, 25]}, "score_range"),
        ({"score_range": [0, 1e300]}, "score_range"),
        ({"pixels": {"min": 4096, "max": 256, "multiple": 16}}, "pixels"),
        ({"pixels": {"min": 256, "max": 10**18, "multiple": 16}}, "pixels.max"),
        ({"pixels": {"min": 256, "max": 4096, "multiple": 100}}, "pixels: max must be"),
        ({"aggregation": {"sc_scores": [0, 0]}}, "aggregation.sc_scores"),
        ({"aggregation": {"pq_scores": [1, -1]}}, "aggregation.pq_scores"),
        ({"aggregation": {"sc": 0, "pq": 0}}, "aggregation"),
    ],
)
def test_wrong_spec_names_file_and_field(tmp_path, change, message):
    save_spec(SPEC, tmp_path)
    file = tmp_path / "verdict.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(SpecError, match=f"verdict.json.*{message}"):
        load_spec(tmp_path)


@pytest.mark.parametrize("value", ["true", '"320"', "3.2e2", "null", "[320]", "NaN", "1e999"])
def test_a_value_of_another_type_is_refused(tmp_path, value):
    save_spec(SPEC, tmp_path)
    file = tmp_path / "verdict.json"
    file.write_text(file.read_text().replace('"max_new_tokens": 320', f'"max_new_tokens": {value}'))
    with pytest.raises(SpecError, match=r"verdict.json: (max_new_tokens|content): ") as error:
        load_spec(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bounds", ["[0, Infinity]", "[NaN, 25]", "[0, 1e999]"])
def test_a_range_that_is_not_finite_is_refused(tmp_path, bounds):
    save_spec(SPEC, tmp_path)
    file = tmp_path / "verdict.json"
    file.write_text(re.sub(r"\[\s*0.0,\s*25.0\s*\]", bounds, file.read_text()))
    assert bounds in file.read_text()
    with pytest.raises(SpecError, match=r"verdict.json: .*score_range"):
        load_spec(tmp_path)


def test_a_file_that_is_no_text_or_a_folder_is_one_line(tmp_path):
    file = tmp_path / "verdict.json"
    for content in (b"\xff\xfe\x00", b"", b"[" * 100_000, b" " * 2**22):
        file.write_bytes(content)
        with pytest.raises(SpecError, match=r"verdict.json: content: ") as error:
            load_spec(tmp_path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 500
    file.unlink()
    file.mkdir()
    with pytest.raises(SpecError, match=r"verdict.json: cannot be read: Is a directory"):
        load_spec(tmp_path)


def test_aggregate_is_the_papers():
    assert aggregate([25, 25], [25, 25], SPEC) == 1.0
    assert aggregate([0, 0], [25, 25], SPEC) == 0.0
    expected = ((0.6 * 20 + 0.4 * 10) / 25) ** 0.8 * ((0.5 * 15 + 0.5 * 5) / 25) ** 0.2
    assert math.isclose(aggregate([20, 10], [15, 5], SPEC), expected)


def test_aggregate_is_relative_to_the_range_and_to_the_sum_of_the_weights():
    upper = SPEC.model_copy(update={"score_range": (5.0, 10.0)})
    assert aggregate([5, 5], [10, 10], upper) == 0.0
    assert math.isclose(aggregate([7.5, 7.5], [7.5, 7.5], upper), 0.5)
    scaled = SPEC.model_copy(update={"aggregation": Aggregation(sc_scores=(6, 4), pq_scores=(2, 2))})
    assert math.isclose(aggregate([20, 10], [15, 5], scaled), aggregate([20, 10], [15, 5], SPEC))


def test_the_library_imports_no_torch_and_no_pillow():
    """Rewards and the contract of a verdict, as another project's trainer uses them."""
    code = "import spatial_edit_reward, rewards_fn, sys; sys.exit(str({'torch', 'PIL', 'openai'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "set()\n"
