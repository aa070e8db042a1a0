"""The model a stage trains: how its weights are quantized, and what of it is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel, ProcessorMixin

from pipeline.distributed import parameters
from pipeline.launch import check_packages
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.model import VISION_TOKENS, vision_token_ids

if TYPE_CHECKING:
    from datasets import Dataset

    from spatial_edit_reward import Spec


class Inputs(NamedTuple):
    """What a trainer is made of; `rows` as TRL takes them: `prompt`, `images`, for stage 1 `completion`."""

    model: PreTrainedModel
    processor: ProcessorMixin
    spec: Spec
    rows: Dataset


# Names of modules from the top: "visual" alone would match none, and the tower would be quantized.
NOT_QUANTIZED = ["model.visual", "lm_head"]


def quantization(model_args: Any) -> BitsAndBytesConfig | None:
    """How TRL's ModelConfig asks for the weights to be quantized; the vision tower and the output layer never are.

    Raises UserError without bitsandbytes.
    """
    if not (model_args.load_in_4bit or model_args.load_in_8bit):
        return None
    check_packages(vars(model_args))
    from trl import get_quantization_config

    config = get_quantization_config(model_args)
    config.llm_int8_skip_modules = NOT_QUANTIZED
    return config


def no_vision_tokens(processor: ProcessorMixin, vllm: bool) -> dict[str, Any]:
    """Generation options that keep VISION_TOKENS from being sampled, as transformers or vLLM names them."""
    if vllm:
        return {"bad_words": list(VISION_TOKENS)}
    return {"suppress_tokens": vision_token_ids(processor)}


def trained_parameters(model: torch.nn.Module) -> int:
    """How many parameters will be trained. Raises UserError for none, and for a LoRA that reached the vision tower."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not names:
        raise UserError("nothing would be trained: set use_peft and lora_target_modules, or train all parameters")
    adapted = [name for name in names if "visual" in name and "lora_" in name]
    if adapted:
        raise UserError(f"lora_target_modules reaches the vision tower: {adapted[0]}; name language-model modules only")
    return parameters(model, trained=True)
