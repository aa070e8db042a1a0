"""The estimate of memory, against bytes counted on real steps; and what each engine divides."""

import pytest

from tests.conftest import ROOT
from tests.tools.plan.test_model import RECIPE, planned

WITHIN = {"weights": 0.001, "gradients": 0.001, "optimizer": 0.001, "activations": 0.05}


@pytest.mark.parametrize(
    ("size", "dtype", "peft", "checkpointing"),
    [
        ("tiny", "float32", True, False),
        ("tiny", "float32", False, True),
        ("tiny", "bfloat16", True, True),
        ("mid-size", "bfloat16", True, False),
        ("mid-size", "bfloat16", False, True),
        ("mid-size", "float32", False, False),
    ],
)
def test_the_estimate_holds_on_a_real_step(size, dtype, peft, checkpointing):
    from transformers import AutoConfig

    from tools.bench.plan_memory import TINY, compared, mid_size, stage_options
    from tools.plan.activations import Batch

    config, batch = {
        "tiny": (lambda: AutoConfig.from_pretrained(TINY), Batch(4, 192, 4 * 192, 8, 64)),
        "mid-size": (mid_size, Batch(2, 192, 2 * 192, 4, 64)),
    }[size]
    options = stage_options(dtype, dtype == "bfloat16", peft, checkpointing)
    parts, _, _ = compared(config(), options, batch, "cpu")
    for part, (estimated, measured) in parts.items():
        assert measured > 0
        assert estimated == pytest.approx(measured, rel=WITHIN[part]), part


def test_checkpointing_and_shorter_rows_keep_less():
    from tools.plan.activations import Batch
    from tools.plan.hardware import Engine
    from tools.plan.memory import training_bytes

    model, options = planned()
    long, short = Batch(8, 1200, 8 * 300, 16, 1024), Batch(8, 600, 8 * 300, 8, 1024)
    kept = {
        (batch.tokens, on): training_bytes(model, {**options, "gradient_checkpointing": on}, Engine("single"), 1, batch)
        for batch in (long, short)
        for on in (True, False)
    }
    assert kept[1200, True]["activations"] < kept[1200, False]["activations"] / 10
    ratio = kept[1200, False]["activations"] / kept[600, False]["activations"]
    assert ratio == pytest.approx(2, abs=0.1)


def test_each_engine_divides_what_it_should(monkeypatch):
    from tools.plan.hardware import load_engine
    from tools.plan.memory import gathered_bytes, state_bytes

    monkeypatch.chdir(ROOT)
    model, options = planned(use_peft=False)
    count = 8_767_123_696
    one = state_bytes(model, options, load_engine("single"), 1)
    assert (one["weights"], one["gradients"], one["optimizer"]) == pytest.approx(
        (2 * count, 2 * count, 4 * count), rel=1e-4
    )
    ddp = state_bytes(model, options, load_engine("ddp"), 8)
    assert ddp["optimizer"] == one["optimizer"] and ddp["engine's buffers"] == one["gradients"]
    two, three, fsdp = (state_bytes(model, options, load_engine(name), 8) for name in ("zero2", "zero3", "fsdp2"))
    assert two["weights"] == pytest.approx(2 * count, rel=1e-4)
    assert two["gradients"] == pytest.approx(2 * count / 8, rel=1e-4)
    assert two["optimizer"] == three["optimizer"] == pytest.approx(12 * count / 8, rel=1e-4)
    assert three["weights"] == pytest.approx(2 * count / 8, rel=1e-4)
    assert fsdp["weights"] == pytest.approx(4 * count / 8, rel=1e-4)
    assert gathered_bytes(model, load_engine("zero3")) == 2e9
    # FSDP2 in bf16: what is outside the blocks, the output layer once more for TRL's head, and two decoder layers, since the
    # next one is gathered while one is at work.
    layers, tower, vocabulary = 6_946_075_648 - 4096, 27, 622_329_856
    blocks = sum(p.numel() for name, p in model.named_parameters() if ".visual.blocks." in name)
    assert blocks % tower == 0
    outside = count - layers - blocks
    assert gathered_bytes(model, load_engine("fsdp2")) == 2 * (outside + vocabulary + 2 * layers // 36)
    assert fsdp["engine's buffers"] == gathered_bytes(model, load_engine("fsdp2"))


def test_a_reference_model_is_kept_only_where_no_adapter_can_be_switched_off(monkeypatch):
    from tools.plan.hardware import load_engine
    from tools.plan.memory import state_bytes

    monkeypatch.chdir(ROOT)
    model, options = planned(use_peft=False)
    three = load_engine("zero3")
    reference = state_bytes(model, {**options, "beta": 0.02}, three, 8)
    assert reference["reference model"] == reference["weights"]
    assert "reference model" not in state_bytes(model, {**options, "beta": 0.0}, three, 8)
    adapted, options = planned(stage="grpo")
    assert options["beta"] > 0 and options["use_peft"]
    assert "reference model" not in state_bytes(adapted, options, load_engine("ddp"), 8)


def test_four_bits_take_about_half_a_byte_a_weight():
    from tools.plan.hardware import Engine
    from tools.plan.memory import state_bytes

    model, options = planned("spatialreward-8b-qlora")
    state = state_bytes(model, options, Engine("single"), 1)
    quantized = 6_946_075_648 - 36 * (2 * 4096 + 2 * 128) - 4096
    others = 8_767_123_696 - quantized
    assert state["weights"] == pytest.approx(0.516 * quantized + 2 * others + 2 * 87_293_952, rel=2e-3)
    assert state["optimizer"] == pytest.approx(2 * 87_293_952, rel=0.02)


def test_keys_and_values_of_a_token():
    from tools.plan.memory import cache_bytes
    from tools.plan.model import load_model_config, meta_model

    model = meta_model(load_model_config(RECIPE / "config.json"), {**planned()[1], "use_peft": False})
    assert cache_bytes(model, 1) == 36 * 2 * 8 * 128 * 2


def test_a_rollout_by_transformers_keeps_every_key_and_three_copies_of_the_logits():
    from tools.plan.hardware import Engine, find_card
    from tools.plan.memory import cache_bytes, rollout_bytes

    model, options = planned(stage="grpo", use_vllm=False)
    parts = rollout_bytes(model, options, Engine("single"), 1, find_card("h100-80gb"), 16, 1728)
    assert "gradients" not in parts and parts["KV cache"] == cache_bytes(model, 16 * 1728)
    # In fp32: the logits, their probabilities, and the sorted ones that sampling draws from.
    assert parts["temporary, at the peak"] == 3 * 16 * 151_936 * 4


def test_a_rollout_by_vllm_has_its_share_and_a_copy_of_the_adapted_weights():
    from tools.plan.hardware import Engine, find_card
    from tools.plan.memory import rollout_bytes

    model, options = planned(stage="grpo")
    parts = rollout_bytes(model, options, Engine("single"), 1, card := find_card("h100-80gb"), 16, 1728)
    assert parts["vLLM"] == int(0.4 * card.memory)
    # Seven projections of 36 layers in bf16, as `merge_adapter` changes them.
    layer = 4096 * 128 * (32 + 8 + 8 + 32) + 3 * 4096 * 12288
    assert parts["copy of adapted weights"] == 36 * layer * 2
