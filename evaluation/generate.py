"""Verdicts from a local checkpoint, in batches: greedy, or sampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from training.model import vision_token_ids


@dataclass(frozen=True)
class Completion:
    """What the model wrote, and whether it was cut off at the token limit."""

    text: str
    truncated: bool


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn: temperature above 0, and the share of probability 0..1 that tokens are drawn from."""

    temperature: float
    top_p: float


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    messages: Sequence[list[dict[str, Any]]],
    images: Sequence[Sequence[Image.Image]],
    max_new_tokens: int,
    sampling: Sampling | None = None,
) -> list[Completion]:
    """The completion of each chat, `images[i]` filling the placeholders of `messages[i]`; one batch, padded left.

    Greedy without `sampling`; with it, as torch's generator has been seeded.
    """
    model.eval()
    texts = processor.apply_chat_template(list(messages), add_generation_prompt=True)
    inputs = processor(text=texts, images=[list(group) for group in images], padding=True, return_tensors="pt")
    inputs = inputs.to(model.device)
    out = model.generate(
        **inputs,
        do_sample=sampling is not None,
        temperature=sampling.temperature if sampling else None,
        top_p=sampling.top_p if sampling else None,
        top_k=None,
        max_new_tokens=max_new_tokens,
        suppress_tokens=vision_token_ids(processor),
    )
    new = out[:, inputs["input_ids"].shape[1] :]
    last = torch.tensor([processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id], device=new.device)
    ends = torch.isin(new, last).any(dim=1)
    decoded = processor.batch_decode(new, skip_special_tokens=True)
    return [Completion(text, not ended) for text, ended in zip(decoded, ends.tolist(), strict=True)]


def in_batches(count: int, size: int) -> Iterator[range]:
    """Index ranges of at most `size` that cover `count` items."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))
