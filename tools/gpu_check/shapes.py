"""The sizes of a recipe's training steps, read off its YAML files, and random batches of these sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig, PreTrainedConfig

PROMPT_TEXT = 600  # tokens of the question around the pictures: an assumption, the real tokenizer is not at hand
ANSWER = 300  # mean tokens of a verdict, where the recipe's plan.yaml says nothing else
PADDING = 16  # tokens left of every other row: a batch with none would run another attention kernel than training does
PICTURES = 2  # of an `sc` row, the longer one


def read(file: Path) -> dict[str, Any]:
    """The mapping in `file` with what it extends below it."""
    found: dict[str, Any] = yaml.safe_load(file.read_text())
    parent = found.pop("extends", None)
    return {**read(file.parent / parent), **found} if parent else found


@dataclass(frozen=True)
class Shapes:
    """Sizes of one process's steps: rows or completions at a time, tokens, and the adapter."""

    config: PreTrainedConfig
    dtype: str
    patches: int  # of one picture, before the merger
    prompt_text: int
    answer: int
    new_tokens: int
    sft_rows: int
    completions: int  # sampled at a time
    group: int  # completions of one prompt
    update_rows: int  # completions learnt from at a time
    beta: float
    temperature: float
    checkpointing: bool
    lora: dict[str, Any]

    @property
    def picture_tokens(self) -> int:
        return self.patches // self.config.vision_config.spatial_merge_size**2

    @property
    def prompt(self) -> int:
        """Tokens of a prompt with its pictures, each between a start and an end."""
        return self.prompt_text + PICTURES * (self.picture_tokens + 2)


def shapes_of(recipe: Path) -> Shapes:
    """The sizes in the folder `recipe`. Raises OSError or KeyError where it does not hold what is needed."""
    data, sft, grpo = (read(recipe / f"{stage}.yaml") for stage in ("data", "sft", "grpo"))
    plan = recipe / "plan.yaml"
    known = read(plan) if plan.exists() else {}
    folder = recipe if (recipe / "config.json").exists() else Path(sft["model_name_or_path"])
    config = AutoConfig.from_pretrained(folder)
    vision = config.vision_config
    side = int(data["pixels"]["max"] ** 0.5) // data["pixels"]["multiple"] * data["pixels"]["multiple"]
    steps = grpo.get("steps_per_generation") or grpo["gradient_accumulation_steps"]
    return Shapes(
        config=config,
        dtype=sft["dtype"],
        patches=(side // vision.patch_size) ** 2,
        prompt_text=PROMPT_TEXT,
        answer=min(known.get("answer_tokens", ANSWER), data["max_new_tokens"]),
        new_tokens=data["max_new_tokens"],
        sft_rows=sft["per_device_train_batch_size"],
        completions=grpo["per_device_train_batch_size"] * steps,
        group=grpo["num_generations"],
        update_rows=grpo["per_device_train_batch_size"],
        beta=grpo.get("beta", 0.0),
        temperature=grpo.get("temperature", 1.0),
        checkpointing=sft["gradient_checkpointing"],
        lora={
            "r": sft["lora_r"],
            "lora_alpha": sft["lora_alpha"],
            "lora_dropout": sft["lora_dropout"],
            "target_modules": sft["lora_target_modules"][0],
        },
    )


def random_batch(
    shapes: Shapes, rows: int, answer: int, device: torch.device, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Inputs of the model: `rows` prompts with their pictures, each with `answer` tokens behind. Alike on every device."""
    random = torch.Generator().manual_seed(seed)
    config, vision = shapes.config, shapes.config.vision_config
    special = {config.image_token_id, config.video_token_id, config.vision_start_token_id, config.vision_end_token_id}
    words = min(special)

    def text(count: int) -> torch.Tensor:
        return torch.randint(0, words, (rows, count), generator=random)

    def repeated(token: int, count: int = 1) -> torch.Tensor:
        return torch.full((rows, count), token)

    picture = [
        repeated(config.vision_start_token_id),
        repeated(config.image_token_id, shapes.picture_tokens),
        repeated(config.vision_end_token_id),
    ]
    ids = torch.cat(
        [text(shapes.prompt_text // 2), *picture * PICTURES, text(-(-shapes.prompt_text // 2) + answer)], dim=1
    )
    side = int(shapes.patches**0.5)
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    mask = torch.ones_like(ids)
    mask[1::2, :PADDING] = 0
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == config.image_token_id).int(),
        "pixel_values": torch.randn(rows * PICTURES * shapes.patches, width, generator=random),
        "image_grid_thw": torch.tensor([[1, side, side]] * (rows * PICTURES)),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}
