"""Floating-point operations of a step, and its time at a stated share of the card's speed.

A product of a matrix with n weights takes 2 n operations for each position; attention 4 x width x positions attended to, half
of them where it looks back only. The backward pass takes as many again for the gradients of what came in, and as many again for
those of weights that are trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from plan.hardware import Card
from plan.memory import cache_bytes, weight_bytes
from plan.model import base_of
from plan.rows import Rows

# Of the stated bandwidth, while tokens are sampled one after the other; and what transformers takes for each token of a
# batch to launch its kernels, however fast the card. Assumptions.
BANDWIDTH_SHARE = 0.6
LAUNCH_SECONDS = 0.04


def linear_weights(module: torch.nn.Module) -> tuple[int, int]:
    """(weights of the linear layers in `module`, those of them that are trained)."""
    weights = [child.weight for child in module.modules() if isinstance(child, torch.nn.Linear)]
    return sum(w.numel() for w in weights), sum(w.numel() for w in weights if w.requires_grad)


def forward_flops(model: torch.nn.Module, sequences: float, tokens: float, scored: float, pictures: float, patches: float) -> float:
    """Operations of one forward pass over `sequences` of `tokens`, `scored` positions in all, `pictures` of `patches` in all."""
    return sum(_by_part(model, sequences, tokens, scored, pictures, patches).values())


def _by_part(
    model: torch.nn.Module, sequences: float, tokens: float, scored: float, pictures: float, patches: float
) -> dict[str, float]:
    base = base_of(model)
    text, vision = base.config.get_text_config(), base.config.vision_config
    language, _ = linear_weights(base.model.language_model)
    tower, _ = linear_weights(base.model.visual.blocks)
    mergers, _ = linear_weights(torch.nn.ModuleList([base.model.visual.merger, *base.model.visual.deepstack_merger_list]))
    embedding = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2 * vision.hidden_size
    attention = 2 * text.num_attention_heads * text.head_dim * text.num_hidden_layers * tokens
    seen = 4 * vision.hidden_size * vision.depth * patches
    return {
        "language": sequences * tokens * (2 * language + attention),
        "head": 2 * scored * text.hidden_size * text.vocab_size,
        "vision": pictures * patches * (2 * (tower + embedding + mergers / vision.spatial_merge_size**2) + seen),
    }


def training_flops(
    model: torch.nn.Module,
    checkpointing: bool,
    sequences: float,
    tokens: float,
    scored: float,
    pictures: float,
    patches: float,
) -> float:
    """Operations of forward and backward, and of the second forward pass that checkpointing takes."""
    parts = _by_part(model, sequences, tokens, scored, pictures, patches)
    base = base_of(model)
    all_of_it, trained = linear_weights(base.model.language_model)
    once_more = 1 if checkpointing else 0
    vision = any(parameter.requires_grad for parameter in base.model.visual.parameters())
    head = base.get_output_embeddings().weight.requires_grad
    return (
        parts["language"] * (2 + once_more + trained / all_of_it)
        + parts["head"] * (3 + head)  # the tiles are always made again
        + parts["vision"] * (3 + once_more if vision else 1)
    )


@dataclass(frozen=True)
class StepTime:
    """Operations of one step on all GPUs, and seconds of one step by what they are spent on."""

    flops: float
    seconds: dict[str, float]


def sft_step(model: torch.nn.Module, options: Mapping[str, Any], rows: Rows, per_step: int, gpus: int, speed: float) -> StepTime:
    """One step of stage 1 over `per_step` rows; `speed` in FLOP/s that one GPU reaches."""
    flops = training_flops(
        model,
        bool(options["gradient_checkpointing"]),
        per_step,
        rows.tokens,
        per_step * rows.answer,
        per_step * rows.pictures,
        rows.patches,
    )
    return StepTime(flops, {"learning": flops / gpus / speed} if speed else {})


def grpo_step(
    model: torch.nn.Module,
    options: Mapping[str, Any],
    rows: Rows,
    per_step: int,
    gpus: int,
    card: Card,
    speed: float,
    once: int,
) -> StepTime:
    """One step of stage 2 over `per_step` completions, `once` of them sampled at a time on each GPU.

    Sampling reads every weight and every key and value once for each token of the batch; prompts are read first, at `speed`.
    Sampled by vLLM, the policy scores them once more (importance correction); with beta, the reference does.
    """
    shape = (per_step, rows.tokens, per_step * rows.answer, per_step * rows.pictures, rows.patches)
    prompt = (per_step, rows.tokens - rows.answer, per_step, per_step * rows.pictures, rows.patches)
    learn = training_flops(model, bool(options["gradient_checkpointing"]), *shape) * options["num_iterations"]
    forward = forward_flops(model, *shape)
    scoring = forward * (bool(options["beta"]) + bool(options["use_vllm"] and options["vllm_importance_sampling_correction"]))
    read = forward_flops(model, *prompt)
    decode = forward_flops(model, per_step, rows.answer, per_step * rows.answer, 0, 0)
    flops = learn + scoring + read + decode
    if not speed:
        return StepTime(flops, {})
    batches = per_step / gpus / once
    bytes_read = sum(weight_bytes(model, options)) + cache_bytes(model, round(once * rows.tokens))
    # A batch runs until its longest completion ends.
    until = rows.longest_answer if not options["use_vllm"] else rows.answer * 1.5
    a_token = max(bytes_read / (BANDWIDTH_SHARE * card.bandwidth), 0 if options["use_vllm"] else LAUNCH_SECONDS)
    sampling = batches * until * a_token + read / gpus / speed
    return StepTime(flops, {"sampling": sampling, "scoring": scoring / gpus / speed, "learning": learn / gpus / speed})
