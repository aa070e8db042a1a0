"""A model's attention while it writes an `sc` verdict: on the source and on the edited image.

The definitions are this project's own. The paper shows a diagnosis of this kind without saying how it is computed, so figures
from here cannot be compared with the paper's.

- Attention of a written token: the weights of the step that chose it (the query is the position before it), averaged over all
  layers and heads. They are at least 0 and sum to 1 over all tokens before it.
- Mass on an image: the sum of these weights over the image's tokens, 0..1.
- Entropy on an image: with p the weights on its n tokens divided by the mass, -sum p ln p, in nats: 0 for a single token,
  ln n for equal weights. Difference: edited minus source; below 0 the attention on the edited image is narrower. Images of
  different sizes have different ln n.
- Top mass: the share 0..1 of an image's mass on its most attended tenth of tokens (rounded up).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, ProcessorMixin

from spatial_edit_reward.inference.generation import Generated

TOP_SHARE = 0.1


class AttentionMap(NamedTuple):
    """The attention of every token of a completion on one image: `weights` (written tokens, height * width), row by row."""

    weights: torch.Tensor
    height: int
    width: int

    def mean(self, tokens: Sequence[int]) -> torch.Tensor:
        """(height, width) mean weights of the written `tokens`."""
        return self.weights[list(tokens)].mean(0).view(self.height, self.width)


class Measures(NamedTuple):
    """Of each written token: mass 0..1, entropy 0..ln n, top mass 0..1."""

    mass: torch.Tensor
    entropy: torch.Tensor
    top: torch.Tensor


@torch.inference_mode()
def attention_weights(model: PreTrainedModel, inputs: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """(written tokens, all tokens but the last) weights, in fp32: of one prompt without padding and the `tokens` written to it.

    `model`: loaded with eager attention, the only one that keeps weights. All layers' weights are in memory at once.
    """
    # the last token is chosen from the ones before it, and chooses nothing itself
    added = tokens[None, :-1]
    inputs = {
        **inputs,
        "input_ids": torch.cat([inputs["input_ids"], added], dim=1),
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones_like(added)], dim=1),
        "mm_token_type_ids": torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(added)], dim=1),
    }
    layers = model(**inputs, use_cache=False, output_attentions=True).attentions
    first = layers[0].shape[-1] - len(tokens)
    return torch.stack([layer[0, :, first:].float().mean(0) for layer in layers]).mean(0)


def attention_maps(model: PreTrainedModel, processor: ProcessorMixin, batch: Generated) -> list[AttentionMap]:
    """The map of each image of the prompt, in their order, of a `batch` of one row."""
    tokens = batch.tokens[0, : batch.responses[0].completion_tokens]
    weights = attention_weights(model, batch.inputs, tokens)
    positions = (batch.inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    merge = processor.image_processor.merge_size
    grids = [(int(height) // merge, int(width) // merge) for _, height, width in batch.inputs["image_grid_thw"]]
    parts = positions.split([height * width for height, width in grids])
    return [AttentionMap(weights[:, part], *grid) for part, grid in zip(parts, grids, strict=True)]


def measure(weights: torch.Tensor) -> Measures:
    """The measures of `weights` (written tokens, n tokens of an image); NaN for entropy and top mass where the mass is 0."""
    mass = weights.sum(-1)
    shares = weights / mass[:, None]
    entropy = -torch.special.xlogy(shares, shares).sum(-1)
    top = shares.topk(math.ceil(TOP_SHARE * weights.shape[-1]), dim=-1).values.sum(-1)
    return Measures(mass, entropy, top)
