"""The model a stage trains: loaded with its processor on the spec's pixels, adapted on the language model only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from pipeline.errors import UserError
from pipeline.launch import check_packages
from training.attention import best_attention
from training.engine import parameters
from verdict import Spec

# Tokens that stand for pixels: sampled, they would break the rope index and the match of images to placeholders.
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")

# Names of modules from the top: "visual" alone would match none, and the tower would be quantised.
NOT_QUANTISED = ["model.visual", "lm_head"]


def load_processor(name: str, spec: Spec) -> ProcessorMixin:
    """The checkpoint's processor with the spec's pixel limits, padding on the left.

    Raises UserError where there is none, or where its patches do not fit the spec's sides.
    """
    try:
        processor = AutoProcessor.from_pretrained(name, padding_side="left")
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: no processor there: {' '.join(str(error).split())[:200]}") from None
    images = processor.image_processor
    side = images.patch_size * images.merge_size
    if side != spec.pixels.multiple:
        raise UserError(
            f"{name}: patches of {side} pixels do not fit pixels.multiple {spec.pixels.multiple} of the spec"
        )
    images.size = {"shortest_edge": spec.pixels.min, "longest_edge": spec.pixels.max}
    return processor


def quantisation(model_args: Any) -> BitsAndBytesConfig | None:
    """How TRL's ModelConfig asks for the weights to be quantised; the vision tower and the output layer never are.

    Raises UserError without bitsandbytes.
    """
    if not (model_args.load_in_4bit or model_args.load_in_8bit):
        return None
    check_packages(vars(model_args))
    from trl import get_quantization_config

    config = get_quantization_config(model_args)
    config.llm_int8_skip_modules = NOT_QUANTISED
    return config


def load_model(
    name: str, dtype: str | None, attention: str | None, quantised: BitsAndBytesConfig | None = None
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
            quantization_config=quantised,
        )
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{name}: cannot be loaded: {' '.join(str(error).split())[:300]}") from None
    if os.environ.get("RANK", "0") == "0":
        print(f"{name}: attention by {kernel} ({why})", flush=True)
    return model


def no_vision_tokens(processor: ProcessorMixin, vllm: bool) -> dict[str, Any]:
    """Generation options that keep VISION_TOKENS from being sampled, as transformers or vLLM names them."""
    if vllm:
        return {"bad_words": list(VISION_TOKENS)}
    return {"suppress_tokens": vision_token_ids(processor)}


def vision_token_ids(processor: ProcessorMixin) -> list[int]:
    """Ids of VISION_TOKENS, to be suppressed while generating."""
    return [processor.tokenizer.convert_tokens_to_ids(token) for token in VISION_TOKENS]


def trained_parameters(model: torch.nn.Module) -> int:
    """How many parameters will be trained. Raises UserError for none, and for a LoRA that reached the vision tower."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not names:
        raise UserError("nothing would be trained: set use_peft and lora_target_modules, or train all parameters")
    adapted = [name for name in names if "visual" in name and "lora_" in name]
    if adapted:
        raise UserError(f"lora_target_modules reaches the vision tower: {adapted[0]}; name language-model modules only")
    return parameters(model, trained=True)
