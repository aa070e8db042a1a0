"""The steps of TRL's own trainers at the recipe's sizes, on the same random weights."""

from __future__ import annotations

import dataclasses
import gc
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, ProcessorMixin, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from tools.gpu_check.measure import synchronise
from tools.gpu_check.shapes import PICTURES, Shapes

TOKENIZER = Path("recipes/tiny/base")  # the 8B's own would have to be downloaded; its size does not change the steps
STEPS = 2  # the first is not counted


class StepTimes(TrainerCallback):
    """Seconds of every update, and of what belongs to it: the rollout too."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        synchronise(self.device)
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        synchronise(self.device)
        self.seconds.append(time.perf_counter() - self.start)


def processor_for(shapes: Shapes) -> ProcessorMixin:
    """The tiny base's processor with the patches of the recipe's model and pictures of the recipe's size."""
    processor = AutoProcessor.from_pretrained(TOKENIZER, padding_side="left")
    images, vision = processor.image_processor, shapes.config.vision_config
    images.patch_size, images.merge_size = vision.patch_size, vision.spatial_merge_size
    pixels = shapes.patches * vision.patch_size**2
    images.size = {"shortest_edge": pixels, "longest_edge": pixels}
    return processor


def model_for(shapes: Shapes, processor: ProcessorMixin, device: torch.device) -> torch.nn.Module:
    """The recipe's model, random, with the token numbers of the processor's tokenizer."""
    config = type(shapes.config).from_dict(shapes.config.to_dict())
    for name, token in (
        ("image_token_id", "<|image_pad|>"),
        ("video_token_id", "<|video_pad|>"),
        ("vision_start_token_id", "<|vision_start|>"),
        ("vision_end_token_id", "<|vision_end|>"),
    ):
        setattr(config, name, processor.tokenizer.convert_tokens_to_ids(token))
    torch.manual_seed(0)
    with device:
        return AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, shapes.dtype))


def words(processor: ProcessorMixin, count: int) -> str:
    """Text of about `count` tokens."""
    piece = "the edited region "
    each = len(processor.tokenizer(piece)["input_ids"])
    return piece * max(1, count // each)


def rows_for(shapes: Shapes, processor: ProcessorMixin, count: int, answers: bool) -> Dataset:
    """Prompts with pictures of noise, and verdicts of mean length where `answers`."""
    side = int(shapes.patches**0.5) * shapes.config.vision_config.patch_size
    pictures = [Image.effect_noise((side, side), 40).convert("RGB") for _ in range(PICTURES)]
    text = words(processor, shapes.prompt_text)
    content = [*({"type": "image"} for _ in range(PICTURES)), {"type": "text", "text": text}]
    row: dict[str, Any] = {"prompt": [{"role": "user", "content": content}], "images": pictures}
    if answers:
        said = [{"type": "text", "text": words(processor, shapes.answer)}]
        row["completion"] = [{"role": "assistant", "content": said}]
    return Dataset.from_list([row] * count)


def uneven(completions: list[Any], **kwargs: Any) -> list[float]:
    """A reward that differs within a group."""
    return [float(place % 7) / 7 for place in range(len(completions))]


def measured(trainer: Any, times: StepTimes, rows: int, device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trainer.train()
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    trainer.accelerator.free_memory()
    trainer.model = trainer.model_wrapped = trainer.optimizer = None
    gc.collect()
    torch.cuda.empty_cache()
    return {"rows": rows, "seconds": times.seconds[-1], "all_seconds": times.seconds, "peak_bytes": peak}


def trainer_steps(shapes: Shapes, device: torch.device) -> dict[str, Any]:
    """Trainer -> seconds and peak memory of an update of one micro-batch (SFT) or one rollout of the recipe's size (GRPO)."""
    processor = processor_for(shapes)
    adapter = LoraConfig(task_type="CAUSAL_LM", **shapes.lora)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "output_dir": folder,
            "max_steps": STEPS,
            "report_to": "none",
            "save_strategy": "no",
            "bf16": shapes.dtype == "bfloat16",
            "use_cpu": device.type == "cpu",
            "gradient_checkpointing": shapes.checkpointing,
            "gradient_checkpointing_kwargs": {"use_reentrant": False} if shapes.checkpointing else None,
            "disable_tqdm": True,
        }
        times = StepTimes(device)
        sft = SFTTrainer(
            model=model_for(shapes, processor, device),
            args=SFTConfig(**common, per_device_train_batch_size=shapes.sft_rows, max_length=None),
            train_dataset=rows_for(shapes, processor, STEPS * shapes.sft_rows, answers=True),
            processing_class=processor,
            peft_config=adapter,
            callbacks=[times],
        )
        found["SFTTrainer"] = measured(sft, times, shapes.sft_rows, device)
        del sft
        times = StepTimes(device)
        windows = shapes.completions // shapes.update_rows
        grpo = GRPOTrainer(
            model=model_for(shapes, processor, device),
            reward_funcs=uneven,
            args=GRPOConfig(
                **common,
                per_device_train_batch_size=shapes.update_rows,
                gradient_accumulation_steps=windows,
                num_generations=shapes.group,
                max_completion_length=shapes.new_tokens,
                beta=shapes.beta,
                temperature=shapes.temperature,
                generation_kwargs={"min_new_tokens": shapes.new_tokens, "suppress_tokens": vision_tokens(processor)},
            ),
            train_dataset=rows_for(shapes, processor, STEPS * shapes.completions, answers=False),
            processing_class=processor,
            peft_config=dataclasses.replace(adapter),
            callbacks=[times],
        )
        found["GRPOTrainer"] = measured(grpo, times, shapes.completions, device)
    return found


def vision_tokens(processor: ProcessorMixin) -> list[int]:
    names = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
    return [processor.tokenizer.convert_tokens_to_ids(name) for name in names]
