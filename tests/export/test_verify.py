"""What verification catches. Each case breaks exactly one thing in a real merged checkpoint."""

import json
import shutil
import sys

import pytest

from spatial_edit_reward.errors import UserError
from tests.conftest import BASE
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


def verify(*arguments):
    from export.verify import verify

    return verify(*arguments)


def load_file(file):
    from safetensors.torch import load_file

    return load_file(file)


def rewrite(file, change):
    from safetensors.torch import save_file

    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def move_up(numbers):
    """To the next number that the dtype has."""
    numbers.nextafter_(numbers.new_full((1,), 9))


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
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name} missing"):
        verify(broken_shards, str(sharded), adapters)
    shard.write_bytes(content[:-1])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        verify(broken_shards, str(sharded), adapters)
    shard.write_bytes(content)
    (broken_shards / INDEX).unlink()
    with pytest.raises(UserError, match=f"{INDEX} missing"):
        verify(broken_shards, str(sharded), adapters)


def test_files_with_other_content_are_caught(broken, adapters):
    def refused(name, change, message):
        before = (broken / name).read_text()
        edit_json(broken / name, change)
        with pytest.raises(UserError, match=message):
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
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(NORM), rf"missing \['{NORM}'\]"),
        (
            lambda tensors: tensors.update({"lm_head.weight": tensors[NORM][:2].clone()}),
            r"not in the base \['lm_head.weight'\]",
        ),
        (lambda tensors: tensors.update({NORM: tensors[NORM][:0].clone()}), f"{NORM} is empty"),
        (lambda tensors: tensors.update({NORM: tensors[NORM][:-1].clone()}), f"{NORM} is .*shape"),
        (lambda tensors: tensors.update({NORM: tensors[NORM].half()}), f"{NORM} is .*F16.*in the base .*F32"),
        (lambda tensors: tensors[NORM].fill_(float("nan")), f"{NORM} holds NaN or Inf"),
        (lambda tensors: tensors[ADAPTED][0].fill_(float("inf")), f"{ADAPTED} holds NaN or Inf"),
        (
            lambda tensors: tensors[NORM][7:8].nextafter_(tensors[NORM].new_full((1,), 9)),
            f"{NORM} is not the base's.*: 1 of",
        ),
        (
            lambda tensors: tensors[ADAPTED][3, 5:6].nextafter_(tensors[NORM].new_full((1,), 9)),
            f"{ADAPTED} is not what the training",
        ),
    ],
)
def test_a_wrong_tensor_is_caught(broken, adapters, change, message):
    rewrite(broken / "model.safetensors", change)
    with pytest.raises(UserError, match=message):
        verify(broken, str(BASE), adapters[:1])


def test_a_tensor_in_another_shard_is_caught(broken_shards, sharded, adapters):
    """The checkpoint is in order by itself, but its index is not the base's."""
    from export.checkpoint import stored_tensors

    stored = stored_tensors(broken_shards)
    shard = stored[NORM].file
    other = next(tensor.file for tensor in stored.values() if tensor.file != shard)
    moved = load_file(broken_shards / shard)[NORM]
    rewrite(broken_shards / shard, lambda tensors: tensors.pop(NORM))
    rewrite(broken_shards / other, lambda tensors: tensors.update({NORM: moved}))
    with pytest.raises(UserError, match=f"index.json and the files disagree on {NORM}"):
        verify(broken_shards, str(sharded), adapters)
    edit_json(broken_shards / INDEX, lambda index: index["weight_map"].update({NORM: other}))
    with pytest.raises(UserError, match=f"{NORM} is .*{other}"):
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
    import torch

    from export.outputs import compare_outputs, load, load_with_adapters

    with pytest.raises(UserError, match=r"logits differ from the trained model's by .*, more than 1e-04"):
        compare_outputs(merged, lambda: load(BASE), SPEC, torch.float32)
    with pytest.raises(UserError, match="logits differ"):  # stored in bf16, with a measured tolerance
        compare_outputs(merged, lambda: load_with_adapters(BASE, adapters), SPEC, torch.bfloat16)


def test_other_verdicts_from_the_same_logits_are_caught(broken, adapters):
    edit_json(broken / "generation_config.json", lambda config: config.update(repetition_penalty=5.0))
    with pytest.raises(UserError, match="of 4 greedy verdicts are not the trained model's"):
        verify(broken, str(BASE), adapters[:1])


def run_verify(monkeypatch, *arguments):
    from export.__main__ import main

    monkeypatch.setattr(sys, "argv", ["export", "verify", *map(str, arguments)])
    main()


def test_the_verify_command_writes_its_report(merged, adapters, monkeypatch, capsys):
    run_verify(monkeypatch, merged, "--base", BASE, "--adapter", adapters[0])
    assert json.loads((merged / "export_report.json").read_text())["passed"] is True
    assert "verified: 1," in capsys.readouterr().out


def test_the_verify_command_names_what_is_wrong(merged, adapters, tmp_path, monkeypatch):
    bare = shutil.copytree(merged, tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    with pytest.raises(SystemExit) as exit_:
        run_verify(monkeypatch, bare, "--base", BASE, "--adapter", adapters[0])
    assert exit_.value.code == f"error: {bare}: tokenizer.json missing"  # on stderr, with status 1
    report = json.loads((bare / "export_report.json").read_text())
    assert report == {"passed": False, "failed": f"{bare}: tokenizer.json missing"}
