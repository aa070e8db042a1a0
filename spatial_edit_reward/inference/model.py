"""Loading a checkpoint: the model with the best attention for it, and the processor on the spec's pixels."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from spatial_edit_reward.errors import UserError, one_line
from spatial_edit_reward.inference.attention import best_attention
from spatial_edit_reward.spec import Spec

# Tokens that stand for pixels: sampled, they would break the rope index and the match of images to placeholders.
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


def load_processor(name: str, spec: Spec) -> ProcessorMixin:
    """The checkpoint's processor with the spec's pixel limits, padding on the left.

    Raises UserError where there is none, or where its patches do not fit the spec's sides.
    """
    try:
        processor = AutoProcessor.from_pretrained(name, padding_side="left")
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: no processor there: {one_line(error)}") from None
    images = processor.image_processor
    side = images.patch_size * images.merge_size
    if side != spec.pixels.multiple:
        raise UserError(
            f"{name}: patches of {side} pixels do not fit pixels.multiple {spec.pixels.multiple} of the spec"
        )
    images.size = {"shortest_edge": spec.pixels.min, "longest_edge": spec.pixels.max}
    return processor


def load_model(
    name: str, dtype: str | None, attention: str | None, quantized: BitsAndBytesConfig | None = None
) -> PreTrainedModel:
    """The image-text-to-text model `name`, a folder or a Hub id; says on the main process which attention it uses.

    Raises UserError where it cannot be loaded.
    """
    if not Path(name).is_dir() and (name.startswith(("/", ".")) or name.count("/") != 1):
        raise UserError(f"{name}: no such checkpoint folder, and no Hub name")
    try:
        stored = AutoConfig.from_pretrained(name).dtype if dtype == "auto" else getattr(torch, dtype or "float32")
        kernel, why = best_attention(attention, stored)
        model = AutoModelForImageTextToText.from_pretrained(
            name,
            dtype=dtype if dtype == "auto" else stored,
            attn_implementation=kernel,
            quantization_config=quantized,
        )
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{name}: cannot be loaded: {one_line(error, 300)}") from None
    if os.environ.get("RANK", "0") == "0":
        print(f"{name}: attention by {kernel} ({why})", flush=True)
    return model


def load_for_inference(
    name: str, spec: Spec, adapter: Path | None = None, attention: str | None = None
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """(model, processor) of a checkpoint in its own dtype, on this process's GPU where there is one, `adapter` at work on it.

    Raises UserError where one of them cannot be loaded.
    """
    processor = load_processor(name, spec)
    model = load_model(name, "auto", attention).to(PartialState(cpu=not torch.cuda.is_available()).device)
    if adapter is not None:
        from peft import PeftModel

        try:
            model = PeftModel.from_pretrained(model, str(adapter))
        except (OSError, ValueError) as error:
            raise UserError(f"{adapter}: no adapter for {name}: {one_line(error)}") from None
    return model.eval(), processor


def vision_token_ids(processor: ProcessorMixin) -> list[int]:
    """Ids of VISION_TOKENS, to be suppressed while generating."""
    return [processor.tokenizer.convert_tokens_to_ids(token) for token in VISION_TOKENS]
