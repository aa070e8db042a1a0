"""The whole check on the CPU at a toy size; its loss beside TRL's; its arithmetic beside counted operations."""

import ast
import json
import subprocess
import sys
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.conftest import ROOT, quiet
from tools.gpu_check import steps
from tools.gpu_check.measure import forward_operations
from tools.gpu_check.shapes import random_batch, shapes_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The tiny recipe with fewer and shorter completions."""
    folder = tmp_path_factory.mktemp("recipe")
    changes = {
        "sft": {"per_device_train_batch_size": 2, "gradient_checkpointing": True},
        "grpo": {"per_device_train_batch_size": 2, "steps_per_generation": 2, "num_generations": 2, "beta": 0.05},
    }
    for stage, changed in changes.items():
        changed = {"extends": str(ROOT / "recipes" / "tiny" / f"{stage}.yaml"), **changed}
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump(changed))
    (folder / "data.yaml").write_text(
        yaml.safe_dump({"max_new_tokens": 12, "pixels": {"min": 256, "max": 4096, "multiple": 16}})
    )
    return folder


@pytest.fixture(scope="module")
def shapes(recipe):
    return shapes_of(recipe)


@pytest.fixture(scope="module")
def model(shapes):
    return steps.random_model(shapes, CPU, torch.float32)


def test_without_a_gpu_one_line_says_so():
    environment = {**quiet(), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "gpu_check"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: no CUDA device") and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_every_part_runs_on_the_cpu(recipe, tmp_path):
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "gpu_check", "--device", "cpu", "--recipe", recipe, "--out", out]
    done = subprocess.run([*map(str, command)], cwd=ROOT, env=quiet(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert found["tiny_losses"]["agree"]
    assert found["sft"]["rows"] == 2 and found["sft"]["tokens_per_second"] > 0 and found["sft"]["attention"]
    assert found["grpo"]["generation"]["rows"] == found["grpo"]["update"]["completions"] == 4
    assert 0 < found["grpo"]["update"]["share_of_matmul"] < 1.5
    assert {name: step["rows"] for name, step in found["trainers"].items()} == {"SFTTrainer": 2, "GRPOTrainer": 4}
    assert found["skipped"] == {}
    for said in ("SFT, forward and backward", "GRPO, generation", "TRL's GRPOTrainer"):
        assert said in done.stdout


def test_random_rows_are_what_the_model_takes(shapes, model):
    batch = random_batch(shapes, 3, shapes.answer, CPU)
    assert batch["input_ids"].shape == (3, shapes.prompt + shapes.answer)
    assert int(batch["mm_token_type_ids"].sum()) == 3 * 2 * shapes.picture_tokens
    with torch.no_grad():
        found = steps.log_probabilities(model.eval(), batch, 5)
        logits = model(**batch).logits.float()
    expected = logits.log_softmax(-1)[:, -6:-1].gather(2, batch["input_ids"][:, -5:, None]).squeeze(2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_dapo_loss_is_trls(shapes, model, monkeypatch):
    """TRL's own `_compute_loss` on the same log-probabilities."""
    from trl import GRPOTrainer

    batch = random_batch(shapes, 4, 9, CPU)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    mask = (torch.arange(9) < torch.tensor([9, 4, 7, 2])[:, None]).float()
    gain = torch.tensor([1.2, -0.7, 0.1, -1.0])
    with torch.no_grad():
        model.eval()
        new = steps.log_probabilities(model, batch, 9, shapes.temperature)
        with model.disable_adapter():
            reference = steps.log_probabilities(model, batch, 9, shapes.temperature)
        old = new + 0.4 * torch.randn(new.shape)
        ours = steps.grpo_loss(model, batch, gain, mask, 50.0, shapes, old)
    alone = SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x)
    fake = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (new, torch.zeros_like(new), None),
        _metrics={"train": defaultdict(list)},
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(delta=None, steps_per_generation=1, use_bias_correction_kl=False),
        accelerator=alone,
        current_gradient_accumulation_steps=1,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=shapes.beta,
        loss_type="dapo",
        epsilon_low=steps.EPSILON,
        epsilon_high=steps.EPSILON,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        _entropy_bonus_enabled=False,
    )
    inputs = {
        "prompt_ids": batch["input_ids"][:, :-9],
        "prompt_mask": batch["attention_mask"][:, :-9],
        "completion_ids": batch["input_ids"][:, -9:],
        "completion_mask": mask,
        "advantages": gain,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": torch.tensor(50.0),
    }
    theirs = GRPOTrainer._compute_loss(fake, model, inputs)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_counted_operations_are_those_of_a_forward_pass(shapes, model):
    """Beside torch's own count, which takes attention as not causal and knows of adapters and patches."""
    batch = random_batch(shapes, 2, shapes.answer, CPU)
    exact = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with torch.no_grad(), exact, FlopCounterMode(display=False) as counter:
        model.eval()
        model.base_model.model.model(**batch, use_cache=False)
    language, seeing = forward_operations(model, shapes, 2, shapes.answer)
    text = shapes.config.text_config
    tokens = shapes.prompt + shapes.answer
    causal_half = 2.0 * text.num_hidden_layers * text.num_attention_heads * text.head_dim * 2 * tokens**2
    head = 2.0 * text.vocab_size * text.hidden_size * 2 * shapes.answer
    adapters = 2.0 * 2 * tokens * sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    expected = language + causal_half - head + adapters + seeing
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_fewer_rows_where_memory_does_not_suffice(monkeypatch):
    def attempt(rows):
        if rows > 2:
            raise torch.OutOfMemoryError("full")
        return {"seconds": 1.0}

    monkeypatch.setattr("gc.collect", lambda: 0)  # seconds each beside all that the tests have loaded
    assert steps.fitting(8, attempt) == {"rows": 2, "seconds": 1.0}
    assert steps.fitting(8, lambda rows: attempt(9)) is None


def test_the_recipes_configuration_is_qwen3_vl_8b():
    config = AutoConfig.from_pretrained(ROOT / "recipes" / "spatialreward-8b" / "config.json")
    with torch.device("meta"):
        assert AutoModelForImageTextToText.from_config(config).num_parameters() == 8_767_123_696


def test_only_the_trainers_part_needs_more_than_torch_transformers_peft_and_accelerate():
    allowed = {"torch", "transformers", "peft", "accelerate", "yaml", "gpu_check", "plan"} | set(
        sys.stdlib_module_names
    )
    for file in (ROOT / "tools" / "gpu_check").glob("*.py"):
        if file.name != "trainers.py":
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ImportFrom):
                    assert node.module.split(".")[0] in allowed, (file, node.module)
                elif isinstance(node, ast.Import):
                    assert {name.name.split(".")[0] for name in node.names} <= allowed, file
