"""What verification catches. Each case breaks exactly one thing in a real merged checkpoint."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.answers import check_answers, load, with_adapters
from export.checkpoint import stored_tensors
from export.verify import verify
from spatial_edit_reward.errors import UserError
from tests.conftest import BASE, run_stage
from tests.export.conftest import SPEC

NORM = "model.language_model.norm.weight"
ADAPTED = "model.language_model.layers.2.self_attn.q_proj.weight"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def broken(merged, tmp_path):
    """A copy of the fp32 merge, in one file, to break."""
    return shutil.copytree(merged, tmp_path / "broken")


@pytest.fixture
def broken_shards(merged_shards, tmp_path):
    """A copy of the bf16 merge, in two shards, to break."""
    return shutil.copytree(merged_shards, tmp_path / "broken")


def rewrite(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def edit_json(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_merge_in_fp32_passes(merged, adapters):
    report = verify(merged, str(BASE), adapters[:1])
    base = load_file(BASE / "model.safetensors")
    assert report["tensors"]["parameters"] == sum(t.numel() for t in base.values())
    assert report["tensors"]["dtypes"] == {"F32": len(base)}
    assert report["tensors"]["to_change"] == report["tensors"]["changed"] == 8
    assert report["answers"]["max_logit_difference"] <= report["answers"]["tolerance"] == 1e-4
    assert report["answers"]["same_verdicts"] == {"float32": 4}
    assert {"model.safetensors", "verdict.json", "chat_template.jinja"} <= set(report["files"])


def test_a_merge_in_bf16_passes_with_a_measured_tolerance(merged_shards, sharded, adapters):
    answers = verify(merged_shards, str(sharded), adapters)["answers"]
    assert 0 < answers["max_logit_difference"] <= answers["tolerance"]
    assert "bfloat16 arithmetic" in answers["tolerance_is"]
    assert set(answers["same_verdicts"]) == {"float32", "bfloat16"}


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "processor_config.json",
        "chat_template.jinja",
        "verdict.json",
        "model.safetensors",
    ],
)
def test_a_missing_file_is_caught(broken, adapters, name):
    (broken / name).unlink()
    with pytest.raises(UserError, match=f"{name}.* missing"):
        verify(broken, str(BASE), adapters[:1])


def test_missing_parts_of_a_sharded_checkpoint_are_caught(broken_shards, sharded, adapters):
    shard = max(broken_shards.glob("*.safetensors"))
    held = shard.read_bytes()
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name} missing"):
        verify(broken_shards, str(sharded), adapters)
    shard.write_bytes(held[:-1])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        verify(broken_shards, str(sharded), adapters)
    shard.write_bytes(held)
    (broken_shards / INDEX).unlink()
    with pytest.raises(UserError, match=f"{INDEX} missing"):
        verify(broken_shards, str(sharded), adapters)


def test_files_that_say_something_else_are_caught(broken, adapters):
    def refused(name, change, said):
        before = (broken / name).read_text()
        edit_json(broken / name, change)
        with pytest.raises(UserError, match=said):
            verify(broken, str(BASE), adapters[:1])
        (broken / name).write_text(before)

    refused(
        "config.json", lambda config: config["text_config"].update(rms_norm_eps=1e-5), "config.json is not the base's"
    )
    refused("verdict.json", lambda spec: spec["pixels"].update(max=8192), "pixel limits are not those of verdict.json")
    refused("processor_config.json", lambda c: c["image_processor"].update(image_mean=[0.4] * 3), "base's pixel_values")
    template = broken / "chat_template.jinja"
    template.write_text(template.read_text() + "Think first.")
    with pytest.raises(UserError, match="base's input_ids"):
        verify(broken, str(BASE), adapters[:1])
    (broken / "generation_config.json").write_text("{")
    with pytest.raises(UserError, match=r"generation_config\.json: no JSON"):
        verify(broken, str(BASE), adapters[:1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop(NORM), rf"missing \['{NORM}'\]"),
        (lambda tensors: tensors.update({"lm_head.weight": torch.ones(2)}), r"not in the base \['lm_head.weight'\]"),
        (lambda tensors: tensors.update({NORM: torch.zeros(0)}), f"{NORM} is empty"),
        (lambda tensors: tensors.update({NORM: tensors[NORM][:-1].clone()}), f"{NORM} is .*shape"),
        (lambda tensors: tensors.update({NORM: tensors[NORM].half()}), f"{NORM} is .*F16.*in the base .*F32"),
        (lambda tensors: tensors[NORM].fill_(float("nan")), f"{NORM} holds NaN or Inf"),
        (lambda tensors: tensors[ADAPTED][0].fill_(float("inf")), f"{ADAPTED} holds NaN or Inf"),
        (lambda tensors: tensors[NORM][7:8].nextafter_(torch.ones(1) * 9), f"{NORM} is not the base's.*: 1 of"),
        (lambda tensors: tensors[ADAPTED][3, 5:6].nextafter_(torch.ones(1) * 9), f"{ADAPTED} is not what the training"),
    ],
)
def test_a_wrong_tensor_is_caught(broken, adapters, change, said):
    rewrite(broken / "model.safetensors", change)
    with pytest.raises(UserError, match=said):
        verify(broken, str(BASE), adapters[:1])


def test_a_tensor_in_another_shard_is_caught(broken_shards, sharded, adapters):
    """The checkpoint is in order by itself, but its index is not the base's."""
    stored = stored_tensors(broken_shards)
    here = stored[NORM].file
    there = next(found.file for found in stored.values() if found.file != here)
    tensor = load_file(broken_shards / here)[NORM]
    rewrite(broken_shards / here, lambda tensors: tensors.pop(NORM))
    rewrite(broken_shards / there, lambda tensors: tensors.update({NORM: tensor}))
    with pytest.raises(UserError, match=f"index.json and the files disagree on {NORM}"):
        verify(broken_shards, str(sharded), adapters)
    edit_json(broken_shards / INDEX, lambda index: index["weight_map"].update({NORM: there}))
    with pytest.raises(UserError, match=f"{NORM} is .*{there}"):
        verify(broken_shards, str(sharded), adapters)


def test_the_base_itself_is_caught(broken, adapters):
    shutil.copy(BASE / "model.safetensors", broken / "model.safetensors")
    with pytest.raises(UserError, match=r"weight is not what the training gave"):
        verify(broken, str(BASE), adapters[:1])


def test_other_adapters_are_caught(merged_shards, sharded, adapters):
    for wrong in (adapters[:1], adapters[::-1], [*adapters, adapters[0]]):
        with pytest.raises(UserError, match=r"weight is not"):
            verify(merged_shards, str(sharded), wrong)


def test_other_logits_are_caught(merged, adapters):
    with pytest.raises(UserError, match=r"logits differ from the trained model's by .*, more than 1e-04"):
        check_answers(merged, lambda: load(BASE), SPEC, torch.float32)
    with pytest.raises(UserError, match="logits differ"):  # stored in bf16, with a measured tolerance
        check_answers(merged, lambda: with_adapters(BASE, adapters), SPEC, torch.bfloat16)


def test_other_verdicts_from_the_same_logits_are_caught(broken, adapters):
    edit_json(broken / "generation_config.json", lambda config: config.update(repetition_penalty=5.0))
    with pytest.raises(UserError, match="of 4 greedy verdicts are not the trained model's"):
        verify(broken, str(BASE), adapters[:1])


def test_the_verify_command_writes_its_report(merged, adapters, tmp_path):
    done = run_stage("export", "verify", merged, "--base", BASE, "--adapter", adapters[0])
    assert done.returncode == 0, done.stderr
    assert json.loads((merged / "export_report.json").read_text())["passed"] is True
    assert "verified: 1," in done.stdout


def test_the_verify_command_says_what_is_wrong(merged, adapters, tmp_path):
    bare = shutil.copytree(merged, tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    done = run_stage("export", "verify", bare, "--base", BASE, "--adapter", adapters[0])
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1] == f"error: {bare}: tokenizer.json missing"
    report = json.loads((bare / "export_report.json").read_text())
    assert report == {"passed": False, "failed": f"{bare}: tokenizer.json missing"}
