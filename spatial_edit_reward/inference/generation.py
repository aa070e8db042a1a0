"""Completions of a loaded checkpoint, in batches: greedy, or sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from transformers import (
    BatchFeature,
    Cache,
    PreTrainedModel,
    ProcessorMixin,
    StoppingCriteriaList,
)

from spatial_edit_reward.inference.model import vision_token_ids
from spatial_edit_reward.inference.request import Response, Sampling


class Generated(NamedTuple):
    """A generated batch, with what a further pass over it needs.

    `inputs`: what the processor made of the prompts, padded left. `tokens`: (batch, new) ids, padded after their end, which a
    response's `completion_tokens` count. `cache`: keys and values of the prompts and of all tokens but the last.
    """

    inputs: dict[str, torch.Tensor]
    tokens: torch.Tensor
    cache: Cache
    responses: list[Response]


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
    """The completion of each chat, `images[i]` filling the placeholders of `messages[i]`; one batch, padded left.

    Greedy without `sampling`; with it, as torch's generator has been seeded. `enough`: the share of the batch, 0..1, at whose
    end the rest is cut off.
    """
    model.eval()
    inputs = prepare(processor, messages, images).to(model.device)
    start = inputs["input_ids"].shape[1]
    ends = torch.tensor([processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id], device=model.device)

    def enough_ended(input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        ended = torch.isin(input_ids[:, start:], ends).any(dim=1)
        return (ended.float().mean() >= enough).expand(len(ended))

    out = model.generate(
        **inputs,
        do_sample=sampling is not None,
        temperature=sampling.temperature if sampling else None,
        top_p=sampling.top_p if sampling else None,
        top_k=None,
        max_new_tokens=max_new_tokens,
        suppress_tokens=vision_token_ids(processor),
        stopping_criteria=StoppingCriteriaList([enough_ended]),
        return_dict_in_generate=True,
    )
    new = out.sequences[:, start:]
    is_end = torch.isin(new, ends)
    ended = is_end.any(dim=1)
    lengths = torch.where(ended, is_end.int().argmax(dim=1) + 1, new.shape[1])  # argmax: the first of several
    texts = processor.batch_decode(new, skip_special_tokens=True)
    columns = zip(texts, ended.tolist(), inputs["attention_mask"].sum(1).tolist(), lengths.tolist(), strict=True)
    responses = [Response(text, not ended, None, prompt, length) for text, ended, prompt, length in columns]
    return Generated(dict(inputs), new, out.past_key_values, responses)
