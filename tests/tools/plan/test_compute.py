"""Operations against torch's own counter, on a model that is run."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText
from trl import ModelConfig, get_peft_config

from tools.bench.plan_memory import inputs_of, mid_size, stage_options
from tools.plan.activations import Batch
from tools.plan.compute import Load, forward_by_part, training_flops
from tools.plan.model import meta_model

BATCH = Batch(2, 192, 2 * 192, 4, 64)
LOAD = Load(2, 192, 2 * 192, 4, 64)


@pytest.mark.parametrize("peft", [True, False], ids=["lora", "all"])
def test_operations_are_those_that_torch_counts(peft):
    config, options = mid_size(), stage_options("float32", False, peft, False)
    # Eager attention is counted as the products it is: over all positions, where the estimate halves what looks back only.
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager")
    if peft:
        from peft import get_peft_model

        known = {name: options[name] for name in ModelConfig.__dataclass_fields__ if name in options}
        model = get_peft_model(model, get_peft_config(ModelConfig(**known)))
    inputs = inputs_of(config, BATCH, "cpu")
    labels = inputs.pop("labels")
    with FlopCounterMode(display=False) as forward:
        logits = model(**inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    text = config.get_text_config()
    halved = 2 * text.num_attention_heads * text.head_dim * text.num_hidden_layers * 192 * 2 * 192
    parts = forward_by_part(meta_model(config, options), LOAD)
    assert sum(parts.values()) + halved == pytest.approx(forward.get_total_flops(), rel=0.03)
    estimated = training_flops(meta_model(config, options), LOAD, checkpointing=False)
    # torch's head is not TRL's: its product is not made again; and a frozen one gives no gradient of its weights.
    estimated += halved * (2 if peft else 3) - parts["head"]
    assert estimated == pytest.approx(forward.get_total_flops() + backward.get_total_flops(), rel=0.05)
