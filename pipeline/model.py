"""The model a stage trains: how its weights are quantized, what of it is trained, and how it is saved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from accelerate import PartialState
from safetensors import safe_open
from transformers import (
    BitsAndBytesConfig,
    PreTrainedModel,
    ProcessorMixin,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from pipeline.distributed import num_parameters
from pipeline.launch import check_packages
from spatial_edit_reward import Spec, save_spec
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.model import VISION_TOKENS, vision_token_ids

if TYPE_CHECKING:
    from datasets import Dataset


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
    return num_parameters(model, trained=True)


class SpecBesideCheckpoints(TrainerCallback):
    """Writes `verdict.json` into every checkpoint, as its last file: every process has written its own by then."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            save_spec(self.spec, Path(args.output_dir) / f"checkpoint-{state.global_step}")


def stored_parameters(folder: Path, leave_out: str | None = None) -> int:
    """How many numbers the safetensors files in `folder` hold, without the tensor `leave_out`.

    Raises UserError for an empty tensor.
    """
    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                elements = math.prod(opened.get_slice(name).get_shape())
                if not elements:
                    raise UserError(f"{file}: {name} is empty: the engine did not gather it")
                count += elements * (name != leave_out)
    return count


def save_trained(trainer: Any, output: Path, spec: Spec) -> Path:
    """The folder with the trainer's gathered adapter (`adapter/`) or, without one, all its weights (`weights/`).

    Every process calls it, the main one writes. Raises UserError where the files do not hold every parameter: an engine that
    divides the weights among processes can leave most of them out.
    """
    adapted = hasattr(trainer.accelerator.unwrap_model(trainer.model), "peft_config")
    folder = output / ("adapter" if adapted else "weights")
    expected = num_parameters(trainer.model, trained=adapted)
    trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        # some engines write tied embeddings twice
        tied = trainer.accelerator.unwrap_model(trainer.model).config.tie_word_embeddings
        stored = stored_parameters(folder, leave_out="lm_head.weight" if tied else None)
        if stored != expected:
            raise UserError(
                f"{folder}: {stored:,} parameters were saved of {expected:,}: the engine must gather weights when saving "
                "(stage3_gather_16bit_weights_on_model_save, fsdp_state_dict_type FULL_STATE_DICT)"
            )
        save_spec(spec, folder)
    return folder
