"""What a forward pass keeps for the backward pass: counted by running one block of each kind, not its numbers, only its shapes.

The block runs under torch's FakeTensorMode, and every tensor that autograd saves is counted once by its storage. All blocks of
a kind are alike, so one is enough; what lies outside them is the last normalization and TRL's fused output layer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from peft import PeftModel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as VOCABULARY_CHUNK

from tools.plan.model import without_adapter


@dataclass(frozen=True)
class Batch:
    """What one process trains on at once: sequences padded to `tokens`, `scored` of all positions through the output layer.

    `images` of `patches` each (before the merger) in all sequences together.
    """

    sequences: int
    tokens: int
    scored: int
    images: int
    patches: int


@dataclass(frozen=True)
class Activations:
    """Bytes: kept by all blocks until the backward pass; on top while it runs; of these, what one recomputed block needs."""

    kept: int
    working: int


def _as_on_cuda(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """Dropout that keeps a mask of bytes, as CUDA's does; the CPU's keeps one of numbers."""
    return torch.native_dropout(x, p, training)[0] if training and p > 0 else x


def saved_bytes(block: torch.nn.Module, mixed: bool, call: Callable[[torch.nn.Module], tuple[Any, list[Any]]]) -> int:
    """Bytes that autograd keeps of one call of `block`, without its parameters and the inputs that all blocks share.

    `mixed`: under bf16 autocast. `call` runs the block and returns its output and the shared inputs.
    """
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    own = copy.deepcopy(block).train()
    with FakeTensorMode(allow_non_fake_inputs=True), patch("torch.nn.functional.dropout", _as_on_cuda):
        own.to_empty(device="cpu")
        with saved_tensors_hooks(note, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            output, shared = call(own)
        known = {tensor.untyped_storage()._cdata for tensor in [*own.parameters(), *shared]}
        del output
        return sum(storage.nbytes() for key, storage in kept.items() if key not in known)


def language_layer_bytes(model: torch.nn.Module, batch: Batch, mixed: bool) -> int:
    """What one decoder layer keeps of a padded batch."""
    text = without_adapter(model).config.get_text_config()
    dtype = without_adapter(model).dtype

    def call(layer: torch.nn.Module) -> tuple[Any, list[Any]]:
        x = torch.empty(batch.sequences, batch.tokens, text.hidden_size, dtype=dtype, requires_grad=True)
        rotary = [torch.empty(batch.sequences, batch.tokens, text.head_dim, dtype=dtype) for _ in range(2)]
        mask = torch.ones(batch.sequences, 1, batch.tokens, batch.tokens, dtype=torch.bool)
        return layer(x, attention_mask=mask, position_embeddings=tuple(rotary)), [*rotary, mask]

    return saved_bytes(without_adapter(model).model.language_model.layers[0], mixed, call)


def vision_block_bytes(model: torch.nn.Module, batch: Batch, mixed: bool) -> int:
    """What one block of the vision tower keeps of the batch's images; nothing where the tower is frozen."""
    visual = without_adapter(model).model.visual
    if not any(parameter.requires_grad for parameter in visual.parameters()):
        return 0
    vision = without_adapter(model).config.vision_config
    dtype = without_adapter(model).dtype
    rows = batch.images * batch.patches
    # As an array: the block asks for its numbers, which a fake tensor does not have.
    ends = np.arange(batch.images + 1) * batch.patches

    def call(block: torch.nn.Module) -> tuple[Any, list[Any]]:
        x = torch.empty(rows, vision.hidden_size, dtype=dtype, requires_grad=True)
        side = vision.hidden_size // vision.num_heads
        rotary = [torch.empty(rows, side, dtype=torch.float32) for _ in range(2)]
        return block(x, cu_seqlens=ends, position_embeddings=tuple(rotary)), rotary

    return saved_bytes(visual.blocks[0], mixed, call)


def merger_bytes(model: torch.nn.Module, batch: Batch, mixed: bool) -> int:
    """What the mergers after the vision tower keep, DeepStack's included, which no checkpointing covers; nothing if frozen.

    Their inputs are those of the tower's next blocks, but for the last one's.
    """
    visual = without_adapter(model).model.visual
    mergers = [visual.merger, *visual.deepstack_merger_list]
    if not any(parameter.requires_grad for merger in mergers for parameter in merger.parameters()):
        return 0
    shape = batch.images * batch.patches, without_adapter(model).config.vision_config.hidden_size

    def call(merger: torch.nn.Module) -> tuple[Any, list[Any]]:
        x = torch.empty(shape, dtype=without_adapter(model).dtype, requires_grad=True)
        return merger(x), [x]

    last_output = math.prod(shape) * without_adapter(model).dtype.itemsize
    return sum(saved_bytes(merger, mixed, call) for merger in mergers) + last_output


def patch_bytes(model: torch.nn.Module, batch: Batch) -> int:
    """What a trained patch embedding keeps: the patches in the model's dtype, and the weights of interpolated positions."""
    base = without_adapter(model)
    embedding = base.model.visual.patch_embed.proj.weight
    if not embedding.requires_grad:
        return 0
    copied = embedding[0].numel() * embedding.itemsize if embedding.itemsize < 4 else 0  # pixels come in fp32
    return batch.images * batch.patches * (copied + 4 * (8 + 4))


def activation_bytes(model: torch.nn.Module, batch: Batch, mixed: bool, checkpointing: bool) -> Activations:
    """What training keeps of one batch.

    With checkpointing each block keeps its input, and one block at a time is run again. The output layer works on tiles
    (TRL's fused head): logits of at most TOKEN_CHUNK_SIZE x VOCABULARY_CHUNK, and fp32 gradients of what comes in.
    """
    base = without_adapter(model)
    text, vision = base.config.get_text_config(), base.config.vision_config
    width = base.dtype.itemsize
    positions = batch.sequences * batch.tokens
    layer, block = language_layer_bytes(model, batch, mixed), vision_block_bytes(model, batch, mixed)
    layer_input = positions * text.hidden_size * width
    block_input = batch.images * batch.patches * vision.hidden_size * width if block else 0
    last = positions * text.hidden_size * 4 + batch.scored * text.hidden_size * width
    if base.model.language_model.norm.weight.requires_grad:
        last += positions * text.hidden_size * width
    shared = batch.sequences * batch.tokens**2 + 2 * positions * text.head_dim * width  # the mask; rotary embeddings
    outside = last + shared + merger_bytes(model, batch, mixed) + patch_bytes(model, batch)
    tile = min(batch.scored, TOKEN_CHUNK_SIZE) * min(text.vocab_size, VOCABULARY_CHUNK) * (2 if mixed else width)
    head = tile + batch.scored * text.hidden_size * 4
    if any(parameter.requires_grad for parameter in base.get_output_embeddings().parameters()):
        head += text.vocab_size * text.hidden_size * 4
    if not checkpointing:
        kept = layer * text.num_hidden_layers + block * vision.depth
        return Activations(kept + outside, head)
    # Under an adapter the embeddings are made to need a gradient, so that the first checkpoint has one, and are kept.
    embeddings = layer_input if isinstance(model, PeftModel) else 0
    kept = layer_input * text.num_hidden_layers + block_input * vision.depth + embeddings
    return Activations(kept + outside, max(head, layer, block))
