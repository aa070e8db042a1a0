"""The estimate of memory, against bytes counted on real steps; and what each engine divides."""

import pytest
from transformers import AutoConfig

from tests.conftest import ROOT
from tests.tools.plan.test_model import RECIPE, planned
from tools.bench.plan_memory import TINY, compared, mid_size, stage_options
from tools.plan.activations import Batch
from tools.plan.hardware import Engine, load_engine
from tools.plan.memory import cache_bytes, gathered_bytes, state_bytes, training_bytes
from tools.plan.model import load_model_config, meta_model

WITHIN = {"weights": 0.05, "gradients": 0.05, "optimizer": 0.05, "activations": 0.20}
SIZES = {
    "tiny": (lambda: AutoConfig.from_pretrained(TINY), Batch(4, 192, 4 * 192, 8, 64)),
    "mid-size": (mid_size, Batch(2, 192, 2 * 192, 4, 64)),
}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointing"])
@pytest.mark.parametrize("peft", [True, False], ids=["lora", "all"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", SIZES)
def test_the_estimate_holds_on_a_real_step(size, dtype, peft, checkpointing):
    config, batch = SIZES[size]
    options = stage_options(dtype, dtype == "bfloat16", peft, checkpointing)
    parts, _, _ = compared(config(), options, batch, "cpu")
    for part, (estimated, measured) in parts.items():
        assert measured > 0
        assert estimated == pytest.approx(measured, rel=WITHIN[part]), part


def test_checkpointing_and_shorter_rows_keep_less():
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
    reference = state_bytes(model, {**options, "beta": 0.02}, load_engine("zero3"), 8)
    assert reference["reference model"] == three["weights"]


def test_four_bits_take_about_half_a_byte_a_weight():
    model, options = planned("spatialreward-8b-qlora")
    found = state_bytes(model, options, Engine("single"), 1)
    quantized = 6_946_075_648 - 36 * (2 * 4096 + 2 * 128) - 4096
    others = 8_767_123_696 - quantized
    assert found["weights"] == pytest.approx(0.516 * quantized + 2 * others + 2 * 87_293_952, rel=2e-3)
    assert found["optimizer"] == pytest.approx(2 * 87_293_952, rel=0.02)


def test_keys_and_values_of_a_token():
    model = meta_model(load_model_config(RECIPE / "config.json"), {**planned()[1], "use_peft": False})
    assert cache_bytes(model, 1) == 36 * 2 * 8 * 128 * 2
