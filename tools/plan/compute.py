"""Floating-point operations of a step, and its time at a stated share of the card's speed.

A product with n weights takes 2 n operations for each position; attention 4 x width x positions attended to, half of them
where it looks back only. The backward pass takes as many again for the gradients of what came in, and as many again for
those of weights that are trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from tools.plan.hardware import Card
from tools.plan.memory import cache_bytes, weight_bytes
from tools.plan.model import base_of
from tools.plan.rows import Rows

# Of the stated bandwidth, while tokens are sampled one after the other; and what transformers takes for each token of a
# batch to launch its kernels, however fast the card. Assumptions.
BANDWIDTH_SHARE = 0.6
LAUNCH_SECONDS = 0.04
# vLLM fills the places of completions that ended, but the last ones run with few others: tokens until all have ended, in means.
TAIL = 1.5


@dataclass(frozen=True)
class Load:
    """What goes through the model: `sequences` of `tokens`; `scored` positions and `pictures`, of `patches` each, in all."""

    sequences: float
    tokens: float
    scored: float
    pictures: float
    patches: float


def load_of(rows: Rows, count: int) -> Load:
    """`count` mean rows with their answers."""
    return Load(count, rows.tokens, count * rows.answer, count * rows.pictures, rows.patches)


def linear_weights(*modules: torch.nn.Module) -> tuple[int, int]:
    """(weights of the linear layers in `modules`, those of them that are trained)."""
    children = [child for module in modules for child in module.modules()]
    weights = [child.weight for child in children if isinstance(child, torch.nn.Linear)]
    return sum(w.numel() for w in weights), sum(w.numel() for w in weights if w.requires_grad)


def forward_by_part(model: torch.nn.Module, load: Load) -> dict[str, float]:
    """Part -> operations of one forward pass."""
    base = base_of(model)
    text, vision, visual = base.config.get_text_config(), base.config.vision_config, base.model.visual
    language, _ = linear_weights(base.model.language_model)
    tower, _ = linear_weights(visual.blocks)
    mergers, _ = linear_weights(visual.merger, *visual.deepstack_merger_list)
    pixels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    per_patch = tower + pixels * vision.hidden_size + mergers / vision.spatial_merge_size**2
    back = 2 * text.num_attention_heads * text.head_dim * text.num_hidden_layers * load.tokens
    around = 4 * vision.hidden_size * vision.depth * load.patches
    return {
        "language": load.sequences * load.tokens * (2 * language + back),
        "head": 2 * load.scored * text.hidden_size * text.vocab_size,
        "vision": load.pictures * load.patches * (2 * per_patch + around),
    }


def training_flops(model: torch.nn.Module, load: Load, checkpointing: bool) -> float:
    """Operations of forward and backward, and of the second forward pass that checkpointing takes."""
    base, parts = base_of(model), forward_by_part(model, load)
    weights, trained = linear_weights(base.model.language_model)
    tower = any(parameter.requires_grad for parameter in base.model.visual.parameters())
    head = base.get_output_embeddings().weight.requires_grad
    return (
        parts["language"] * (2 + checkpointing + trained / weights)
        + parts["head"] * (3 + head)  # TRL's fused head always makes its tiles again
        + parts["vision"] * (3 + checkpointing if tower else 1)
    )


@dataclass(frozen=True)
class StepTime:
    """Operations of one step on all GPUs, and seconds of one step by what they are spent on (none without a speed)."""

    flops: float
    seconds: dict[str, float]


def sft_step(model: torch.nn.Module, options: Mapping[str, Any], load: Load, gpus: int, speed: float) -> StepTime:
    """One step of stage 1; `speed` in FLOP/s that one GPU reaches, 0 if unknown."""
    flops = training_flops(model, load, bool(options["gradient_checkpointing"]))
    return StepTime(flops, {"learning": flops / gpus / speed} if speed else {})


def grpo_step(
    model: torch.nn.Module, options: Mapping[str, Any], rows: Rows, load: Load, gpus: int, card: Card, speed: float
) -> StepTime:
    """One step of stage 2 over the completions of `load`, sampled by each GPU as many at a time as a rollout holds.

    Prompts are read at `speed`; then every weight, key and value is read once for each token of the batch. Sampled by vLLM, the
    policy scores the completions once more (importance correction); with beta, the reference does.
    """
    learn = training_flops(model, load, bool(options["gradient_checkpointing"])) * options["num_iterations"]
    passes = bool(options["beta"]) + bool(options["use_vllm"] and options["vllm_importance_sampling_correction"])
    score = passes * sum(forward_by_part(model, load).values())
    prompts = replace(load, tokens=load.tokens - rows.answer, scored=load.sequences)
    read = sum(forward_by_part(model, prompts).values())
    write = sum(forward_by_part(model, replace(load, tokens=rows.answer, pictures=0)).values())
    flops = learn + score + read + write
    if not speed:
        return StepTime(flops, {})
    once = options["per_device_train_batch_size"] * options["steps_per_generation"]
    bytes_read = sum(weight_bytes(model, options)) + cache_bytes(model, round(once * load.tokens))
    a_token = max(bytes_read / (BANDWIDTH_SHARE * card.bandwidth), 0 if options["use_vllm"] else LAUNCH_SECONDS)
    # Without vLLM a batch runs until its longest completion has ended.
    until = TAIL * rows.answer if options["use_vllm"] else rows.longest_answer
    sampling = load.sequences / gpus / once * until * a_token + read / gpus / speed
    return StepTime(flops, {"sampling": sampling, "scoring": score / gpus / speed, "learning": learn / gpus / speed})
