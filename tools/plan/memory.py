"""Memory of one process by part, under each engine: weights, gradients, optimizer, activations, rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tools.plan.activations import Batch, activation_bytes
from tools.plan.hardware import GIB, Card, Engine
from tools.plan.model import quantized, without_adapter

# NF4 keeps half a byte a weight and one scale for each block of 64: 4 bytes, or with nested quantization one byte and a second
# scale of 4 bytes for 256 of them.
PER_WEIGHT = {False: 0.5 + 4 / 64, True: 0.5 + 1 / 64 + 4 / (64 * 256)}
# Adam's two moments, in bytes a parameter of 4 bytes; in 8 bits they have a scale of 4 bytes for each block of 256.
EIGHT_BIT = 2 * (1 + 4 / 256)
# What CUDA and NCCL take before anything is allocated: an assumption, not a measurement of this project.
CONTEXT = int(1.5 * GIB)
# ZeRO-3 gathers at most this many parameters at once (DeepSpeed's stage3_max_live_parameters).
LIVE = 10**9


def weight_bytes(model: torch.nn.Module, options: Mapping[str, Any]) -> tuple[int, int]:
    """(bytes of frozen weights, bytes of trained ones) as one process loads them, tied ones once."""
    small = quantized(model, options)
    frozen = trained = 0.0
    for name, parameter in model.named_parameters():
        size = parameter.numel() * (
            PER_WEIGHT[options["use_bnb_nested_quant"]] if name in small else parameter.element_size()
        )
        if parameter.requires_grad:
            trained += size
        else:
            frozen += size
    frozen += sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    return int(frozen), int(trained)


@dataclass(frozen=True)
class State:
    """Bytes of what stays between steps in one process, before an engine divides it."""

    frozen: int
    trained: int
    gradients: int
    optimizer: int


def undivided_state(model: torch.nn.Module, options: Mapping[str, Any], engine: Engine) -> State:
    """The state as `engine` keeps it: DeepSpeed in bf16 all weights in bf16, and a copy in fp32 with the optimizer; FSDP2 in
    bf16 trained weights in fp32. Gradients have the dtype of their weights.
    """
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    frozen, trained = weight_bytes(model, options)
    if engine.zero and options["bf16"]:
        frozen = sum(2 * parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
        return State(frozen, 2 * count, 2 * count, (4 + 8) * count)
    if engine.fsdp and options["bf16"]:
        return State(frozen, 4 * count, 4 * count, 8 * count)
    moments = EIGHT_BIT * count if "8bit" in str(options["optim"]) else 2 * trained
    return State(frozen, trained, trained, int(moments))


def buffer_bytes(model: torch.nn.Module, options: Mapping[str, Any], engine: Engine, gpus: int, gradients: int) -> int:
    """Bytes of the engine's own buffers: what gradients are collected in, and divided weights that are whole for a while."""
    buffers = 0
    if engine.zero:
        elements = (
            without_adapter(model).config.get_text_config().hidden_size ** 2 if engine.bucket is None else engine.bucket
        )
        buffers = (2 if engine.two_buckets else 1) * (2 if options["bf16"] else 4) * elements
    elif engine.distributed and not engine.fsdp:
        buffers = gradients  # DDP's buckets
    if engine.divides_weights and gpus > 1:
        buffers += gathered_bytes(model, engine)
    return buffers


def state_bytes(model: torch.nn.Module, options: Mapping[str, Any], engine: Engine, gpus: int) -> dict[str, int]:
    """Part -> bytes of what stays between steps, in one process: weights, gradients, optimizer, the engine's buffers.

    Where there is no adapter to switch off, a copy of the model is the reference.
    """
    state = undivided_state(model, options, engine)
    weights = (state.frozen + state.trained) // (gpus if engine.divides_weights else 1)
    share = gpus if engine.divides_training_state else 1
    parts = {
        "weights": weights,
        "gradients": state.gradients // share,
        "optimizer": state.optimizer // share,
        "reference model": weights if options.get("beta") and not options["use_peft"] else 0,
        "engine's buffers": buffer_bytes(model, options, engine, gpus, state.gradients),
    }
    return {name: size for name, size in parts.items() if size}


def gathered_bytes(model: torch.nn.Module, engine: Engine) -> int:
    """Bytes of divided weights that are whole in one process at a time, in bf16.

    FSDP2: what lies outside the wrapped blocks, the output layer again for TRL's head, and two blocks. ZeRO-3: LIVE at most.
    """
    sizes = {name: 2 * parameter.numel() for name, parameter in model.named_parameters()}
    if engine.zero:
        return min(2 * LIVE, sum(sizes.values()))
    blocks = [size for name, size in sizes.items() if "language_model.layers.0." in name]
    outside = sum(size for name, size in sizes.items() if ".layers." not in name and ".blocks." not in name)
    head = without_adapter(model).get_output_embeddings().weight.numel() * 2
    return outside + head + 2 * sum(blocks)


def cache_bytes(model: torch.nn.Module, tokens: int) -> int:
    """Bytes of keys and values of `tokens` in all layers, in the model's dtype."""
    text = without_adapter(model).config.get_text_config()
    per_layer = 2 * text.num_key_value_heads * text.head_dim * without_adapter(model).dtype.itemsize
    return per_layer * text.num_hidden_layers * tokens


def training_bytes(
    model: torch.nn.Module, options: Mapping[str, Any], engine: Engine, gpus: int, batch: Batch
) -> dict[str, int]:
    """Part -> bytes at the peak of a training step, in one process."""
    activations = activation_bytes(model, batch, bool(options["bf16"]), bool(options["gradient_checkpointing"]))
    return {
        **state_bytes(model, options, engine, gpus),
        "activations": activations.kept,
        "temporary, at the peak": activations.working,
    }


def rollout_bytes(
    model: torch.nn.Module,
    options: Mapping[str, Any],
    engine: Engine,
    gpus: int,
    card: Card,
    sequences: int,
    tokens: int,
) -> dict[str, int]:
    """Part -> bytes while `sequences` of `tokens` are sampled, in one process.

    With vLLM on the same card its share is as set; a server runs on other cards; transformers keeps every key and value.
    """
    state = state_bytes(model, options, engine, gpus)
    state.pop("gradients", None)
    if options["use_vllm"]:
        adapted = sum(2 * p.numel() for name, p in model.named_parameters() if ".base_layer." in name)
        if adapted:  # grpo/rollouts.py keeps them while they are merged
            state["copy of adapted weights"] = adapted // (gpus if engine.divides_weights else 1)
        share = int(options["vllm_gpu_memory_utilization"] * card.memory) if options["vllm_mode"] == "colocate" else 0
        return {**state, "vLLM": share} if share else state
    if engine.divides_weights and gpus > 1:
        state["engine's buffers"] = sum(2 * p.numel() for p in model.parameters())  # gathered whole to generate
    vocabulary = without_adapter(model).config.get_text_config().vocab_size
    # Logits of one position, their probabilities, and those that sampling sorts, in fp32.
    logits = 3 * 4 * sequences * vocabulary
    return {
        **state,
        "KV cache": cache_bytes(model, sequences * tokens),
        "temporary, at the peak": logits,
    }
