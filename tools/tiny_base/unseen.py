"""Tokens that no pretraining sentence holds get rows of their own again, as tokens have in a base that has read everything.

Pretraining only ever pushes these tokens away, all in one direction, until their embeddings are nearly the same vector. Stage
1's LoRA leaves the (tied) embeddings alone, and could not write a token whose row is like four hundred others'.
"""

from __future__ import annotations

import torch
from transformers import Qwen2TokenizerFast, Qwen3VLForConditionalGeneration

from tools.tiny_base.grounding import conversation

CONVERSATIONS = 3000


def seen_tokens(tokenizer: Qwen2TokenizerFast, seed: int, side: int) -> set[int]:
    """Ids of the tokens in the chats of CONVERSATIONS conversations, special tokens included."""
    turns = [turn for number in range(CONVERSATIONS) for turn in conversation(seed, number, side).turns]
    texts = [text for turn in turns for text in (turn.question, turn.answer)]
    ids = {token for words in tokenizer([*texts, "user\n", "assistant\n"])["input_ids"] for token in words}
    return ids | set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)


@torch.no_grad()
def separate_unseen_rows(model: Qwen3VLForConditionalGeneration, seen: set[int], seed: int) -> None:
    """Gives every token outside `seen` a random row whose length is the mean of the seen tokens' rows."""
    rows = model.get_input_embeddings().weight
    was_seen = torch.zeros(len(rows), dtype=torch.bool)
    was_seen[sorted(seen)] = True
    length = rows[was_seen].norm(dim=1).mean()
    random = torch.randn(int((~was_seen).sum()), rows.shape[1], generator=torch.Generator().manual_seed(seed))
    rows[~was_seen] = length * random / random.norm(dim=1, keepdim=True)
