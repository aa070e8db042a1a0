"""The loss and the gradients of one update of either stage, by the stage's own trainer, in one process or several.

    torchrun --nproc_per_node 2 -m tests.accelerate.gradients STAGE OUT.pt --config FILE [--any_option value]

For stage 2, `GENERATED` in the environment names a file with the generated and scored batch to learn from.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from trl import GRPOConfig, ModelConfig, SFTConfig
from trl.trainer.utils import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

import grpo.train
import sft.train
from grpo.__main__ import RewardArguments
from pipeline.distributed import free_memory_and_shutdown
from pipeline.recipe import parse_stage
from rewards_fn import load_rewards
from sft.__main__ import DataArguments


class Gradients(TrainerCallback):
    """Keeps the gradients that an update is made of."""

    def __init__(self) -> None:
        self.by_name: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.by_name = {n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None}


def sft_trainer(arguments: list[str]) -> Trainer:
    (args, stage_args, model_args), _ = parse_stage((SFTConfig, DataArguments, ModelConfig), arguments)
    return sft.train.make_trainer(args, model_args, Path(stage_args.data_dir))


def grpo_trainer(arguments: list[str]) -> Trainer:
    (args, stage_args, model_args), _ = parse_stage((GRPOConfig, RewardArguments, ModelConfig), arguments)
    rewards = load_rewards(stage_args.reward_funcs)
    data = Path(stage_args.data_dir)
    return grpo.train.make_trainer(args, model_args, rewards, data, stage_args.max_logp_difference)


def select_rows(batch: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """The generated batch with these rows, in this order; the count of all its tokens stays."""
    batch = split_pixel_values_by_grid(batch)
    selected = {name: v if torch.is_tensor(v) and not v.ndim else [v[row] for row in rows] for name, v in batch.items()}
    for name, value in selected.items():
        if torch.is_tensor(batch[name]) and batch[name].ndim:
            selected[name] = torch.stack(value)
    return unsplit_pixel_values_by_grid(selected)


def padded(batch: dict[str, Any], left: int, right: int, pad_id: int) -> dict[str, Any]:
    """The generated batch with more padding left of the prompts and right of the completions."""
    widths = {"prompt_": (left, 0), "completion_": (0, right), "mm_token_type_ids": (left, right), "old_": (0, right)}
    result = dict(batch)
    for name, value in batch.items():
        fill = pad_id if name in ("prompt_ids", "completion_ids") else 0
        for prefix, width in widths.items():
            if name.startswith(prefix):
                result[name] = torch.nn.functional.pad(value, width, value=fill)
    return result


def loss_and_gradients(trainer: Trainer, generated: dict[str, Any] | None = None) -> dict[str, torch.Tensor]:
    """One update by `trainer`: its gradients by name, and the loss. Adapters start with weights that matter."""
    torch.manual_seed(7)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    if generated is not None:
        rank, processes = trainer.args.process_index, trainer.args.world_size
        each = len(generated["prompt_ids"]) // processes
        mine = select_rows(generated, list(range(rank * each, (rank + 1) * each)))
        trainer._generate_and_score_completions = lambda rows: mine
    gradients = Gradients()
    trainer.add_callback(gradients)
    trainer.train()
    loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return {**gradients.by_name, "loss": torch.tensor(loss)}


if __name__ == "__main__":
    stage, out = sys.argv[1], Path(sys.argv[2])
    trainer = (sft_trainer if stage == "sft" else grpo_trainer)(sys.argv[3:])
    generated = torch.load(os.environ["GENERATED"]) if stage == "grpo" else None
    gradients = loss_and_gradients(trainer, generated)
    if trainer.is_world_process_zero():
        torch.save({**gradients, "processes": torch.tensor(trainer.args.world_size)}, out)
    free_memory_and_shutdown(trainer)
