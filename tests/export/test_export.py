"""Merging, and what its verification catches. Each case breaks exactly one thing in a real merged checkpoint."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from export.merge import write_merged
from export.verify import verify
from pipeline.errors import UserError
from tests.conftest import BASE, run_stage
from verdict import Spec, load_spec

SPEC = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=320)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter on the tiny base with weights that matter."""
    folder = tmp_path_factory.mktemp("adapter")
    model = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|down_proj)"))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def merged(adapter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged")
    write_merged(str(BASE), adapter, SPEC, folder)
    return folder


@pytest.fixture
def broken(merged, tmp_path):
    """A copy of the merged checkpoint to break."""
    shutil.copytree(merged, tmp_path / "broken")
    return tmp_path / "broken"


def rewrite(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_a_merge_passes_and_differs_from_the_base(merged, adapter):
    found = verify(str(merged), str(BASE), str(adapter))
    assert found.max_logit_difference <= 1e-4
    assert found.parameters == sum(t.numel() for t in load_file(BASE / "model.safetensors").values())
    assert load_spec(merged) == SPEC
    before, after = load_file(BASE / "model.safetensors"), load_file(merged / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == 2 * 4 and all(name.split(".")[-2] in ("q_proj", "down_proj") for name in changed)


@pytest.mark.parametrize("name", ["verdict.json", "generation_config.json", "chat_template.jinja", "tokenizer.json"])
def test_a_missing_file_is_caught(broken, adapter, name):
    (broken / name).unlink()
    with pytest.raises(UserError, match=name):
        verify(str(broken), str(BASE), str(adapter))


def test_a_missing_tensor_is_caught(broken, adapter):
    rewrite(broken, lambda tensors: tensors.pop("model.language_model.norm.weight"))
    with pytest.raises(UserError, match=r"missing \['model.language_model.norm.weight'\]"):
        verify(str(broken), str(BASE), str(adapter))


def test_an_empty_tensor_is_caught(broken, adapter):
    rewrite(broken, lambda tensors: tensors.update({"model.language_model.norm.weight": torch.zeros(0)}))
    with pytest.raises(UserError, match="has 0 elements"):
        verify(str(broken), str(BASE), str(adapter))


@pytest.mark.parametrize("value", [1.01, float("nan")])
def test_a_wrong_weight_is_caught(broken, adapter, value):
    rewrite(broken, lambda tensors: tensors["model.language_model.norm.weight"].mul_(value))
    with pytest.raises(UserError, match="logits differ"):
        verify(str(broken), str(BASE), str(adapter))


def test_an_unmerged_base_is_caught(broken, adapter):
    shutil.copy(BASE / "model.safetensors", broken / "model.safetensors")
    with pytest.raises(UserError, match="logits differ"):
        verify(str(broken), str(BASE), str(adapter))


def test_a_merge_that_fails_its_verification_is_deleted(adapter, tmp_path, monkeypatch):
    """The adapter is changed between merge and verification, as a full disk or a second run could do it."""
    from export import merge as module

    copy = tmp_path / "adapter"
    shutil.copytree(adapter, copy)
    original = module.write_merged

    def spoil(base, found, spec, folder):
        original(base, found, spec, folder)
        rewrite_adapter = copy / "adapter_model.safetensors"
        save_file({name: t * 2 for name, t in load_file(rewrite_adapter).items()}, rewrite_adapter, {"format": "pt"})

    monkeypatch.setattr(module, "write_merged", spoil)
    with pytest.raises(UserError, match="deleted"):
        module.merge(str(BASE), copy, SPEC, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_the_verify_command_writes_its_report(merged, adapter):
    done = run_stage("export", "verify", merged, "--base", BASE, "--adapter", adapter)
    assert done.returncode == 0, done.stderr
    assert json.loads((merged / "export_report.json").read_text())["max_logit_difference"] <= 1e-4
    assert "verified" in done.stdout
