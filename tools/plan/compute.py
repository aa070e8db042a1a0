"""Operations of a step, counted by torch's `FlopCounterMode` on the `meta` device, and its time at a share of the card's speed.

One sequence and one image go forward and backward through the model's parts, without numbers: once through each kind of layer,
since layers of one kind take the same. Attention is counted over all pairs of positions: a kernel that skips what a causal mask
hides does half of that, which is 2 % less of an 8B's step at 800 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import PeftModel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from tools.plan.hardware import Card
from tools.plan.memory import cache_bytes, weight_bytes
from tools.plan.model import without_adapter
from tools.plan.rows import Rows

# Of the stated bandwidth, while tokens are sampled one after the other; and what transformers takes for each token of a
# batch to launch its kernels, however fast the card. Assumptions.
BANDWIDTH_SHARE = 0.6
LAUNCH_SECONDS = 0.04
# vLLM starts another completion where one ended, but the last ones run with few others: tokens until all have ended, in means.
TAIL = 1.5


@dataclass(frozen=True)
class Workload:
    """What goes through the model: `sequences` of `tokens`; `scored` positions and `images`, of `patches` each, in all."""

    sequences: float
    tokens: int
    scored: float
    images: float
    patches: int


def mean_workload(rows: Rows, count: float) -> Workload:
    """`count` mean rows with their answers."""
    return Workload(count, round(rows.tokens), count * rows.answer, count * rows.images, rows.patches)


class Operations(NamedTuple):
    """Floating-point operations: of a forward pass alone; of training: forward, backward and what is computed again."""

    forward: float
    training: float

    def times(self, number: float) -> Operations:
        return Operations(self.forward * number, self.training * number)


def add(parts: Iterable[Operations]) -> Operations:
    forward, training = zip(*parts, strict=True)
    return Operations(sum(forward), sum(training))


def count(module: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, checkpointing: bool = False) -> Operations:
    """Operations of `module` on `x`; backward as far as something is trained, or `x` needs a gradient."""
    with FlopCounterMode(display=False) as forward:
        output = checkpoint(module, x, use_reentrant=False) if checkpointing else module(x)
    with FlopCounterMode(display=False) as backward:
        if output.requires_grad:
            output.sum().backward()
    return Operations(forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops())


def is_trained(module: torch.nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def count_layers(
    layers: Iterable[torch.nn.Module],
    run: Callable[[torch.nn.Module], Callable[[torch.Tensor], torch.Tensor]],
    x: torch.Tensor,
    checkpointing: bool,
) -> Operations:
    """Operations of all `layers` one after the other on `x`, which needs a gradient or not; `run` gives a layer's call."""
    kinds: dict[Any, Operations] = {}
    total = []
    for layer in layers:
        kind = (x.requires_grad, *((parameter.shape, parameter.requires_grad) for parameter in layer.parameters()))
        if kind not in kinds:
            kinds[kind] = count(run(layer), x, checkpointing)
        total.append(kinds[kind])
        x = x.detach().requires_grad_(x.requires_grad or is_trained(layer))
    return add(total)


def image_operations(model: torch.nn.Module, patches: int, checkpointing: bool) -> Operations:
    """Operations of the vision tower on one image of `patches` patches, its mergers included."""
    visual, vision = without_adapter(model).model.visual, without_adapter(model).config.vision_config
    dtype = without_adapter(model).dtype
    pixels = torch.empty(patches, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2, dtype=dtype)
    x = torch.empty(patches, vision.hidden_size, dtype=dtype, requires_grad=is_trained(visual.patch_embed))
    rotary = [torch.empty(patches, vision.hidden_size // vision.num_heads) for _ in range(2)]
    ends = np.array([0, patches])  # an array: the block asks for its numbers, which a `meta` tensor does not have

    def run(block: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: block(x, cu_seqlens=ends, position_embeddings=rotary)

    blocks = count_layers(visual.blocks, run, x, checkpointing)
    merged = x.detach().requires_grad_(is_trained(visual))
    mergers = [count(merger, merged) for merger in (visual.merger, *visual.deepstack_merger_list)]
    return add([count(visual.patch_embed, pixels), blocks, *mergers])


def sequence_operations(model: torch.nn.Module, tokens: int, checkpointing: bool) -> Operations:
    """Operations of the decoder layers on one sequence of `tokens`."""
    base = without_adapter(model)
    text = base.config.get_text_config()
    # With checkpointing an adapter's embeddings are made to need a gradient, so that the first checkpoint has one.
    reached = is_trained(base.get_input_embeddings()) or is_trained(base.model.visual)
    reached |= checkpointing and isinstance(model, PeftModel)
    x = torch.empty(1, tokens, text.hidden_size, dtype=base.dtype, requires_grad=reached)
    rotary = tuple(torch.empty(1, tokens, text.head_dim, dtype=base.dtype) for _ in range(2))
    mask = torch.empty(1, 1, tokens, tokens, dtype=torch.bool)

    def run(layer: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: layer(x, attention_mask=mask, position_embeddings=rotary)

    return count_layers(base.model.language_model.layers, run, x, checkpointing)


def position_operations(model: torch.nn.Module) -> Operations:
    """Operations of the output layer on one position; TRL's fused one computes its logits again in the backward pass."""
    head = without_adapter(model).get_output_embeddings()
    plain = count(head, torch.empty(1, head.in_features, dtype=head.weight.dtype, requires_grad=True))
    return Operations(plain.forward, plain.training + plain.forward)


def operations_by_part(model: torch.nn.Module, load: Workload, checkpointing: bool) -> dict[str, Operations]:
    """Part -> operations of `load`, with a training step's under `checkpointing` or without it."""
    with torch.device("meta"):
        return {
            "language": sequence_operations(model, load.tokens, checkpointing).times(load.sequences),
            "head": position_operations(model).times(load.scored),
            "vision": image_operations(model, load.patches, checkpointing).times(load.images),
        }


@dataclass(frozen=True)
class StepTime:
    """Operations of one step on all GPUs, and seconds of one step by what they are spent on (none without a speed)."""

    flops: float
    seconds: dict[str, float]


def sft_step(model: torch.nn.Module, options: Mapping[str, Any], load: Workload, gpus: int, speed: float) -> StepTime:
    """One step of stage 1; `speed` in FLOP/s that one GPU reaches, 0 if unknown."""
    flops = add(operations_by_part(model, load, bool(options["gradient_checkpointing"])).values()).training
    return StepTime(flops, {"training": flops / gpus / speed} if speed else {})


def grpo_step(
    model: torch.nn.Module, options: Mapping[str, Any], rows: Rows, load: Workload, gpus: int, card: Card, speed: float
) -> StepTime:
    """One step of stage 2 over the completions of `load`, sampled by each GPU as many at a time as a rollout holds.

    Prompts are read at `speed`; then every weight, key and value is read once for each token of the batch. Token by token, with
    keys and values kept, a completion takes the operations of one pass over it. Sampled by vLLM, the policy scores the
    completions once more (importance correction); with beta, the reference does.
    """
    total = add(operations_by_part(model, load, bool(options["gradient_checkpointing"])).values())
    learn = total.training * options["num_iterations"]
    passes = bool(options["beta"]) + bool(options["use_vllm"] and options["vllm_importance_sampling_correction"])
    score = passes * total.forward
    flops = learn + score + total.forward
    if not speed:
        return StepTime(flops, {})
    batch = options["per_device_train_batch_size"] * options["steps_per_generation"]
    sampling = sampling_seconds(model, options, rows, load.sequences / gpus, batch, card, speed)
    return StepTime(flops, {"sampling": sampling, "scoring": score / gpus / speed, "training": learn / gpus / speed})


def sampling_seconds(
    model: torch.nn.Module,
    options: Mapping[str, Any],
    rows: Rows,
    completions: float,
    batch: int,
    card: Card,
    speed: float,
) -> float:
    """Seconds in which one GPU writes `completions` of mean rows, `batch` at a time, by vLLM or not (`use_vllm`)."""
    load = mean_workload(rows, completions)
    prompts = replace(load, tokens=load.tokens - round(rows.answer), scored=load.sequences)
    read = add(operations_by_part(model, prompts, False).values()).forward
    bytes_read = sum(weight_bytes(model, options)) + cache_bytes(model, round(batch * load.tokens))
    a_token = max(bytes_read / (BANDWIDTH_SHARE * card.bandwidth), 0 if options["use_vllm"] else LAUNCH_SECONDS)
    # Without vLLM a batch runs until its longest completion has ended.
    until = TAIL * rows.answer if options["use_vllm"] else rows.longest_answer
    return completions / batch * until * a_token + read / speed
