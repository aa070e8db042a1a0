"""The model of a recipe on the `meta` device: no weight is read or made, but every shape, name and adapter is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel
from trl import ModelConfig, get_peft_config

from pipeline.model import NOT_QUANTIZED
from pipeline.recipe import config_folder
from spatial_edit_reward.errors import UserError, one_line


def find_config(sft: Path, base: str) -> Path:
    """The configuration of the base: of its folder, else the one kept beside the recipe `sft` or a recipe it extends.

    Raises UserError where there is none.
    """
    folder = config_folder(sft, base)
    if folder is None:
        raise UserError(f"{sft.parent / 'config.json'} is not there: keep the base's config.json in the recipe")
    return folder / "config.json"


def load_model_config(file: Path) -> PreTrainedConfig:
    """The model configuration in `file`. Raises UserError where it is none."""
    try:
        return AutoConfig.from_pretrained(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: no model configuration: {one_line(error)}") from None


def meta_model(config: PreTrainedConfig, options: Mapping[str, Any]) -> PreTrainedModel | PeftModel:
    """The model that the stage's `options` train, on `meta`: in its dtype, with its adapter, frozen as in training.

    Adapters have the dtype that training gives them: fp32, or bf16 on a base in 4 bits.
    """
    dtype = options["dtype"] if options["dtype"] not in (None, "auto") else "bfloat16"
    with torch.device("meta"):
        # The shapes are those of any attention kernel; `sdpa` is the one that can be traced without a GPU.
        model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa")
        arguments = ModelConfig(**{name: options[name] for name in ModelConfig.__dataclass_fields__ if name in options})
        adapter = get_peft_config(arguments)
        if adapter is None:
            return model
        try:
            adapted = get_peft_model(model, adapter)
        except ValueError as error:
            raise UserError(f"lora_target_modules: {one_line(error)}") from None
    if options["load_in_4bit"]:
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
    return adapted


def part_name(name: str) -> str:
    """The part of Qwen3-VL that the parameter `name` belongs to."""
    if "visual" in name:
        return "merger" if "merger" in name else "vision tower"
    if "embed_tokens" in name:
        return "embeddings"
    return "output layer" if "lm_head" in name else "language layers"


def parameters_by_part(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """Part -> (parameters in all, those that are trained), tied ones once."""
    counts: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        total, trained = counts.get(part_name(name), (0, 0))
        size = parameter.numel()
        counts[part_name(name)] = (total + size, trained + size * parameter.requires_grad)
    return counts


def quantized(model: torch.nn.Module, options: Mapping[str, Any]) -> set[str]:
    """Names of the weights that are stored in 4 bits: of the base's linear layers, but none of pipeline's NOT_QUANTIZED."""
    if not options["load_in_4bit"]:
        return set()
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not any(part in name for part in (*NOT_QUANTIZED, "lora_"))
    }


def without_adapter(model: torch.nn.Module) -> PreTrainedModel:
    """The model without its PEFT wrapper; its adapted layers stay."""
    return model.get_base_model() if isinstance(model, PeftModel) else model
