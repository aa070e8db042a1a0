"""Four-bit weights on a CPU: what is quantized, one step of LoRA through the real stage, merged into the unquantized base."""

import json

import pytest

from spatial_edit_reward.errors import UserError
from tests.conftest import BASE, run_stage, write_recipe

QLORA = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": True}


@pytest.fixture(scope="module")
def quantized():
    from trl import ModelConfig

    from pipeline.model import quantization
    from spatial_edit_reward.inference.model import load_model

    return load_model(str(BASE), "float32", None, quantization(ModelConfig(**QLORA, dtype="float32")))


def test_exactly_the_language_models_layers_are_quantized(quantized):
    import torch
    from bitsandbytes.nn import Linear4bit
    from safetensors.torch import load_file

    names = {name for name, module in quantized.named_modules() if isinstance(module, Linear4bit)}
    layers = quantized.config.text_config.num_hidden_layers
    assert len(names) == 7 * layers and all(".language_model.layers." in name for name in names)
    assert {p.dtype for p in quantized.model.visual.parameters()} == {torch.float32}
    # two values a byte
    before = load_file(BASE / "model.safetensors")
    for name in names:
        assert 2 * quantized.get_submodule(name).weight.numel() == before[f"{name}.weight"].numel()


def test_parameters_are_counted_as_if_unpacked(quantized):
    from pipeline.distributed import num_parameters
    from spatial_edit_reward.inference.model import load_model

    plain = load_model(str(BASE), "float32", None)
    assert num_parameters(quantized) == num_parameters(plain) == plain.num_parameters()


def test_a_quantized_checkpoint_is_no_base_to_merge_into(quantized, tmp_path):
    from export.merge import adapted

    quantized.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="quantized: merge into the weights it was made from"):
        adapted(tmp_path, [])


def test_without_bitsandbytes_the_extra_is_named(monkeypatch):
    from trl import ModelConfig

    from pipeline.model import quantization

    monkeypatch.setattr("pipeline.launch.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"bitsandbytes.*\[quant\]"):
        quantization(ModelConfig(**QLORA))


@pytest.mark.slow
def test_a_step_on_four_bit_weights_ends_in_the_unquantized_base_with_the_adapter(tmp_path, small_data):
    import torch
    from safetensors.torch import load_file

    changes = {"model_name_or_path": str(BASE), "data_dir": str(small_data), "output_dir": str(tmp_path / "sft")}
    changes |= {"max_steps": 1, "report_to": "none", "eval_strategy": "no", "logging_steps": 1, "warmup_steps": 0}
    done = run_stage("sft", "--config", write_recipe(tmp_path / "sft.yaml", "sft", **changes, **QLORA))
    assert done.returncode == 0, done.stderr[-3000:]
    merged, before = (load_file(folder / "model.safetensors") for folder in (tmp_path / "sft" / "merged", BASE))
    assert {name: t.shape for name, t in merged.items()} == {name: t.shape for name, t in before.items()}
    changed = [name for name in before if not torch.equal(merged[name], before[name])]
    assert changed and all(".language_model.layers." in name for name in changed)
    assert max(float((merged[name] - before[name]).abs().max()) for name in changed) < 0.1
    report = json.loads((tmp_path / "sft" / "merged" / "export_report.json").read_text())
    assert report["passed"] and report["answers"]["max_logit_difference"] < 1e-4
