"""Operations and time of a step: against torch's counter on a model that is run, and part by part."""

import dataclasses

import pytest

from tests.conftest import ROOT


def count_real_step(config, options, batch):
    """(forward, training) operations that torch counts while a model of this `config` runs on numbers."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForImageTextToText
    from trl import ModelConfig, get_peft_config

    from tools.bench.plan_memory import inputs_of

    # Eager attention is counted as the products it is, as the estimate does.
    model = base = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").train()
    if options["use_peft"]:
        from peft import get_peft_model

        known = {name: options[name] for name in ModelConfig.__dataclass_fields__ if name in options}
        model = get_peft_model(model, get_peft_config(ModelConfig(**known)))
    if options["gradient_checkpointing"]:
        base.gradient_checkpointing_enable({"use_reentrant": False})
        if options["use_peft"]:
            model.enable_input_require_grads()
    inputs = inputs_of(config, batch, "cpu")
    labels = inputs.pop("labels")
    with FlopCounterMode(display=False) as forward:
        logits = model(**inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    return forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops()


@pytest.mark.parametrize(
    ("peft", "checkpointing"), [("all layers", False), ("all layers", True), ("last layer", False), (None, True)]
)
def test_operations_are_those_that_torch_counts(peft, checkpointing):
    from tools.bench.plan_memory import MODULES, mid_size, stage_options
    from tools.plan.activations import Batch
    from tools.plan.compute import Workload, add, operations_by_part
    from tools.plan.model import meta_model

    options = stage_options("float32", False, peft is not None, checkpointing)
    if peft == "last layer":
        options["lora_target_modules"] = [MODULES[0].replace(r"\d+", "7")]
    forward, training = count_real_step(mid_size(), options, Batch(2, 192, 2 * 192, 4, 64))
    parts = operations_by_part(meta_model(mid_size(), options), Workload(2, 192, 2 * 192, 4, 64), checkpointing)
    assert add(parts.values()).forward == pytest.approx(forward, rel=1e-5)
    # The model's own output layer does not compute its logits again, as TRL's fused one does.
    assert add(parts.values()).training - parts["head"].forward == pytest.approx(training, rel=2e-3)


def test_what_a_step_of_stage_2_is_made_of():
    from spatial_edit_reward import Spec
    from tools.bench.plan_memory import mid_size
    from tools.plan.compute import add, grpo_step, mean_workload, operations_by_part, sft_step
    from tools.plan.hardware import find_card
    from tools.plan.memory import cache_bytes, weight_bytes
    from tools.plan.model import meta_model
    from tools.plan.rows import from_spec
    from tools.plan.stage import load_stage

    options = load_stage(ROOT / "recipes/spatialreward-8b/grpo.yaml", {}).options
    options |= {"beta": 0.0, "vllm_importance_sampling_correction": False}
    model = meta_model(mid_size(), options)
    spec = Spec(pixels={"min": 4096, "max": 262144, "multiple": 32}, max_new_tokens=1024)
    rows, card = from_spec(spec, 1000, 300, 16), find_card("h100-80gb")
    load = mean_workload(rows, 128)
    total = add(operations_by_part(model, load, True).values())

    def step(card=card, **changes):
        return grpo_step(model, {**options, **changes}, rows, load, 8, card, 1e14)

    # Stage 1 trains, and nothing else; without checkpointing nothing is computed again.
    for checkpointing in (True, False):
        training = add(operations_by_part(model, load, checkpointing).values()).training
        time = sft_step(model, {**options, "gradient_checkpointing": checkpointing}, load, 8, 1e14)
        assert (time.flops, time.seconds["training"]) == pytest.approx((training, training / 8 / 1e14))
    assert training < 0.85 * total.training

    # Training, and a completion sampled token by token, which takes what a pass over it takes.
    plain = step()
    assert plain.flops == pytest.approx(total.training + total.forward)
    assert plain.seconds["scoring"] == 0
    assert plain.seconds["training"] == pytest.approx(total.training / 8 / 1e14)
    # The reference and the correction of vLLM's probabilities take a pass over every completion each.
    for passes, changes in (
        (1, {"beta": 0.02}),
        (1, {"vllm_importance_sampling_correction": True}),
        (2, {"beta": 0.02, "vllm_importance_sampling_correction": True}),
    ):
        more = step(**changes)
        assert more.flops - plain.flops == pytest.approx(passes * total.forward)
        assert more.seconds["scoring"] == pytest.approx(passes * total.forward / 8 / 1e14)
        assert more.seconds["sampling"] == plain.seconds["sampling"]
    # A rollout ends with its last completions, after half as many tokens again as the mean of 300; each token of the 16 that
    # run together reads every weight, key and value once.
    fast = step(dataclasses.replace(card, bandwidth=2 * card.bandwidth))
    reading = 2 * (plain.seconds["sampling"] - fast.seconds["sampling"])
    read_once = sum(weight_bytes(model, options)) + cache_bytes(model, 16 * load.tokens)
    assert reading == pytest.approx(128 / 8 / 16 * 450 * read_once / (0.6 * 3.35e12))
