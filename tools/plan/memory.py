"""Memory of one process by part, under each engine: weights, gradients, optimizer, activations, rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tools.plan.activations import Batch, activation_bytes
from tools.plan.hardware import GIB, Card, Engine
from tools.plan.model import base_of, quantized

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


def state_bytes(model: torch.nn.Module, options: Mapping[str, Any], engine: Engine, gpus: int) -> dict[str, int]:
    """Part -> bytes of what stays between steps, in one process: weights, gradients, optimizer, the engine's buffers.

    DeepSpeed in bf16 keeps every weight in bf16 and a master copy in fp32 with the optimizer; FSDP2 keeps trained weights in
    fp32. Gradients have the dtype of their weights. Without an adapter to switch off, a copy of the model is the reference.
    """
    frozen, trained = weight_bytes(model, options)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    count = sum(parameter.numel() for parameter in parameters)
    share = gpus if engine.divides_training_state else 1
    whole = gpus if engine.divides_weights else 1
    eight = "8bit" in str(options["optim"])
    gradients, moments, master = trained, EIGHT_BIT * count if eight else 2 * trained, 0
    buffers = 0
    if engine.zero and options["bf16"]:
        trained, gradients, moments, master = 2 * count, 2 * count, 8 * count, 4 * count
        frozen = sum(2 * p.numel() for p in model.parameters() if not p.requires_grad)
    elif engine.fsdp and options["bf16"]:
        trained, gradients, moments = 4 * count, 4 * count, 8 * count
    if engine.zero:
        hidden = base_of(model).config.get_text_config().hidden_size
        width = 2 if options["bf16"] else 4
        buffers = (2 if engine.two_buckets else 1) * width * (hidden**2 if engine.bucket is None else engine.bucket)
    elif engine.distributed and not engine.fsdp:
        buffers = gradients  # DDP's buckets
    if engine.divides_weights and gpus > 1:
        buffers += gathered_bytes(model, engine)
    reference = frozen + trained if options.get("beta") and not options["use_peft"] else 0
    parts = {
        "weights": (frozen + trained) // whole,
        "gradients": gradients // share,
        "optimizer": int(moments + master) // share,
        "reference model": reference // whole,
        "engine's buffers": buffers,
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
    head = base_of(model).get_output_embeddings().weight.numel() * 2
    return outside + head + 2 * sum(blocks)


def cache_bytes(model: torch.nn.Module, tokens: int) -> int:
    """Bytes of keys and values of `tokens` in all layers, in the model's dtype."""
    text = base_of(model).config.get_text_config()
    per_layer = 2 * text.num_key_value_heads * text.head_dim * base_of(model).dtype.itemsize
    return per_layer * text.num_hidden_layers * tokens


def training_bytes(
    model: torch.nn.Module, options: Mapping[str, Any], engine: Engine, gpus: int, batch: Batch
) -> dict[str, int]:
    """Part -> bytes at the peak of a training step, in one process."""
    found = activation_bytes(model, batch, bool(options["bf16"]), bool(options["gradient_checkpointing"]))
    return {
        **state_bytes(model, options, engine, gpus),
        "activations": found.kept,
        "at work on top": found.working,
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

    With vLLM on the same card its share is as set; a server is elsewhere; transformers keeps every key and value and the
    logits of one position.
    """
    state = state_bytes(model, options, engine, gpus)
    state.pop("gradients", None)
    if options["use_vllm"]:
        share = int(options["vllm_gpu_memory_utilization"] * card.memory) if options["vllm_mode"] == "colocate" else 0
        return {**state, "vLLM": share} if share else state
    if engine.divides_weights and gpus > 1:
        state["engine's buffers"] = sum(2 * p.numel() for p in model.parameters())  # gathered whole to generate
    vocabulary = base_of(model).config.get_text_config().vocab_size
    return {
        **state,
        "KV cache": cache_bytes(model, sequences * tokens),
        "at work on top": 3 * 4 * sequences * vocabulary,
    }
