"""The model and the arithmetic of both stages' steps, written out: no trainer, no data, random weights."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForImageTextToText

from tools.gpu_check.shapes import Shapes

EPSILON = 0.2  # TRL's clipping of the ratio
CHUNK = 1024  # positions whose logits are in memory at once
Batch = dict[str, torch.Tensor]


def random_model(shapes: Shapes, device: torch.device, dtype: torch.dtype, seed: int = 0) -> PeftModel:
    """The recipe's model with its adapter, random, made on `device`; base in `dtype`, adapter in fp32, as in training."""
    torch.manual_seed(seed)
    with device:
        model = AutoModelForImageTextToText.from_config(shapes.config, dtype=dtype)
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **shapes.lora))
    if shapes.checkpointing:
        checkpointed(model, True)
    return model.train()


def checkpointed(model: PeftModel, on: bool) -> None:
    """Sets gradient checkpointing, which generation does without."""
    if on:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    else:
        model.gradient_checkpointing_disable()


def log_probabilities(model: PeftModel, batch: Batch, scored: int, temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities of the last `scored` tokens of each row, (rows, scored), fp32; logits of CHUNK positions at a time."""
    base: Any = model.base_model.model
    hidden = base.model(**batch, use_cache=False).last_hidden_state[:, -scored - 1 : -1]
    tokens = batch["input_ids"][:, -scored:].reshape(-1)

    def of(states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        logits = base.lm_head(states).float() / temperature
        return -torch.nn.functional.cross_entropy(logits, wanted, reduction="none")

    rows = hidden.reshape(-1, hidden.shape[-1])
    pieces = [
        checkpoint(of, states, wanted, use_reentrant=False)
        for states, wanted in zip(rows.split(CHUNK), tokens.split(CHUNK), strict=True)
    ]
    return torch.cat(pieces).view(len(hidden), scored)


def sft_loss(model: PeftModel, batch: Batch, scored: int) -> torch.Tensor:
    """The mean negative log-probability of the answers' tokens."""
    return -log_probabilities(model, batch, scored).mean()


def grpo_loss(
    model: PeftModel,
    batch: Batch,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    tokens: float,
    shapes: Shapes,
    old: torch.Tensor | None = None,
) -> torch.Tensor:
    """TRL's `dapo` loss of some of the completions: clipped ratios and KL to the base, summed over `mask`, over all `tokens`.

    `advantages`: (rows,); `mask`: (rows, completion). `old` log-probabilities are those of now where none are given, as for
    the one update after a rollout. The adapter switched off is the reference.
    """
    scored = mask.shape[1]
    new = log_probabilities(model, batch, scored, shapes.temperature)
    ratio = torch.exp(new - (new.detach() if old is None else old))
    gain = advantages[:, None]
    loss = -torch.min(ratio * gain, ratio.clamp(1 - EPSILON, 1 + EPSILON) * gain)
    if shapes.beta:
        with torch.no_grad(), model.disable_adapter():
            reference = log_probabilities(model, batch, scored, shapes.temperature)
        loss = loss + shapes.beta * (torch.exp(reference - new) - (reference - new) - 1)
    return (loss * mask).sum() / tokens


def advantages_of(rewards: torch.Tensor, group: int) -> torch.Tensor:
    """Rewards normalized within each group of completions of one prompt."""
    grouped = rewards.view(-1, group)
    spread = grouped.std(dim=1, keepdim=True) + 1e-4
    return ((grouped - grouped.mean(dim=1, keepdim=True)) / spread).view(-1)


def rows_of(batch: Batch, start: int, stop: int) -> Batch:
    """Rows `start` to `stop` of a batch whose rows all have equally many patches."""
    count = len(batch["input_ids"])
    return {name: tensor[start * len(tensor) // count : stop * len(tensor) // count] for name, tensor in batch.items()}


@torch.no_grad()
def sample(model: PeftModel, prompts: Batch, shapes: Shapes) -> torch.Tensor:
    """Completions of full length, (rows, new tokens), sampled at the recipe's temperature and without vision tokens."""
    config = shapes.config
    vision = [config.image_token_id, config.video_token_id, config.vision_start_token_id, config.vision_end_token_id]
    written: torch.Tensor = model.generate(
        **prompts,
        do_sample=True,
        temperature=shapes.temperature,
        max_new_tokens=shapes.new_tokens,
        min_new_tokens=shapes.new_tokens,
        suppress_tokens=vision,
        pad_token_id=0,
    )
    return written[:, prompts["input_ids"].shape[1] :]


def optimizer_of(model: PeftModel) -> torch.optim.Optimizer:
    return torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-5)


def fitting(rows: int, attempt: Callable[[int], dict[str, Any]]) -> dict[str, Any] | None:
    """What `attempt(rows)` found, with half as many rows as long as the memory does not suffice; None if one is too many."""
    while rows:
        try:
            return {"rows": rows, **attempt(rows)}
        except torch.OutOfMemoryError:
            rows //= 2
        gc.collect()
        torch.cuda.empty_cache()
    return None
