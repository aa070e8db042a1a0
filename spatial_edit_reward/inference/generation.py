"""Completions of a loaded checkpoint, in batches: greedy, or sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image
from transformers import (
    BatchFeature,
    Cache,
    PreTrainedModel,
    ProcessorMixin,
    StoppingCriteria,
    StoppingCriteriaList,
)

from spatial_edit_reward.inference.model import vision_token_ids
from spatial_edit_reward.inference.request import Sampling


@dataclass(frozen=True)
class Completion:
    """What the model wrote, and whether it was cut off at the token limit."""

    text: str
    truncated: bool


class Generated(NamedTuple):
    """A generated batch, with what a further pass over it needs.

    `inputs`: what the processor made of the prompts, padded left. `tokens`: (batch, new) ids, padded after their end.
    `lengths`: each row's number of new tokens, the end of its turn included. `cache`: keys and values of the prompts and of all
    tokens but the last.
    """

    inputs: dict[str, torch.Tensor]
    tokens: torch.Tensor
    lengths: list[int]
    cache: Cache
    completions: list[Completion]


class EnoughEnded(StoppingCriteria):
    """Ends a batch when `share` (0..1) of its rows hold one of the `last` tokens behind the first `start` ones."""

    def __init__(self, share: float, start: int, last: torch.Tensor) -> None:
        self.share, self.start, self.last = share, start, last

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        ended = torch.isin(input_ids[:, self.start :], self.last).any(dim=1)
        return (ended.float().mean() >= self.share).expand(len(ended))


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
    return generate_batch(model, processor, messages, images, max_new_tokens, sampling).completions


def prepare(
    processor: ProcessorMixin, messages: Sequence[list[dict[str, Any]]], images: Sequence[Sequence[Image.Image]]
) -> BatchFeature:
    """The tensors of the chats' prompts, padded to one length, `images[i]` filling the placeholders of `messages[i]`."""
    texts = processor.apply_chat_template(list(messages), add_generation_prompt=True)
    return processor(text=texts, images=[list(group) for group in images], padding=True, return_tensors="pt")


@torch.inference_mode()
def generate_batch(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    messages: Sequence[list[dict[str, Any]]],
    images: Sequence[Sequence[Image.Image]],
    max_new_tokens: int,
    sampling: Sampling | None = None,
    enough: float = 1.0,
) -> Generated:
    """What `generate` does, with tokens and cache. `enough`: the share of the batch, 0..1, at whose end the rest is cut off."""
    model.eval()
    inputs = prepare(processor, messages, images).to(model.device)
    start = inputs["input_ids"].shape[1]
    ids = [processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id]
    last = torch.tensor(ids, device=model.device)
    out = model.generate(
        **inputs,
        do_sample=sampling is not None,
        temperature=sampling.temperature if sampling else None,
        top_p=sampling.top_p if sampling else None,
        top_k=None,
        max_new_tokens=max_new_tokens,
        suppress_tokens=vision_token_ids(processor),
        stopping_criteria=StoppingCriteriaList([EnoughEnded(enough, start, last)]),
        return_dict_in_generate=True,
    )
    new = out.sequences[:, start:]
    is_last = torch.isin(new, last)
    ends = is_last.any(dim=1).tolist()
    firsts = is_last.int().argmax(dim=1).tolist()  # argmax: the first of several
    lengths = [first + 1 if ended else new.shape[1] for first, ended in zip(firsts, ends, strict=True)]
    decoded = processor.batch_decode(new, skip_special_tokens=True)
    completions = [Completion(text, not ended) for text, ended in zip(decoded, ends, strict=True)]
    return Generated(dict(inputs), new, lengths, out.past_key_values, completions)
