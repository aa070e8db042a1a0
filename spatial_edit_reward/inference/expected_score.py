"""Scores expected by the probabilities of the score tokens, instead of the digits that were written.

For each of a verdict's two scores, every integer of the range is scored as a continuation of the text before that score, with
the token that ends it (so that 2 is not a part of 25). The probabilities, normalized over the integers, give the mean. The
first score's continuations follow the generated text; the second's follow it with the first's most likely value written in.

All integers go through the model in one forward pass on the generation's own cache, packed as a tree: a token that several
share is there once, each attends to its own ancestors only, and no cache is copied 26 times.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, ProcessorMixin

from spatial_edit_reward import ParseFailure, Task, repair
from spatial_edit_reward.checks import valid_scores
from spatial_edit_reward.inference.generation import Generated

NUMBER = r"(-?[0-9][0-9.eE+-]*)"
SCORE = re.compile(rf'"score"\s*:\s*\[\s*{NUMBER}\s*,\s*{NUMBER}\s*\]')
MAX_BRANCHES = 1001  # whole numbers of a score range
PREFIX = -1  # the parent of a tree's root: all that is cached
Span = tuple[int, int]  # [start, end) among a completion's tokens


class Tree(NamedTuple):
    """Tokens after a common prefix. `parents[i] < i`; `predictors[k]`: the nodes after which branch k's tokens come."""

    tokens: list[int]
    parents: list[int]
    branches: list[list[int]]
    predictors: list[list[int]]


def score_spans(tokens: Sequence[int], processor: ProcessorMixin) -> tuple[Span, Span] | None:
    """The spans of both numbers in the last `"score": [a, b]` of the text; None where there is none on token boundaries."""
    pieces = processor.batch_decode([[token] for token in tokens])
    matches = list(SCORE.finditer("".join(pieces)))
    if not matches:
        return None
    starts, length = {}, 0  # offset in the text -> index of the token that starts there
    for i, piece in enumerate(pieces):
        if piece:
            starts[length] = i
        length += len(piece)
    a, b, c, d = (starts.get(offset) for group in (1, 2) for offset in matches[-1].span(group))
    return None if a is None or b is None or c is None or d is None else ((a, b), (c, d))


def digits_stand_alone(processor: ProcessorMixin) -> bool:
    """Whether the tokenizer writes each digit as a token of its own, as Qwen's do: numbers then begin and end with tokens."""
    tokens = processor.tokenizer.encode('"score": [10, 25]}', add_special_tokens=False)
    return set("1025") <= set(processor.batch_decode([[token] for token in tokens]))


def whole_numbers(score_range: tuple[float, float]) -> range:
    """The whole numbers of a score range, both ends included."""
    return range(math.ceil(score_range[0]), math.floor(score_range[1]) + 1)


def build_tree(trunk: Sequence[int], branches: list[list[int]]) -> Tree:
    """The tree of `branches` (of one token or more each) on `trunk` (one or more): what is shared is there once."""
    tokens, parents = list(trunk), list(range(PREFIX, len(trunk) - 1))
    children: dict[tuple[int, int], int] = {}
    predictors = []
    for branch in branches:
        path = [len(trunk) - 1]
        for token in branch[:-1]:  # nothing comes after a branch's last token
            child = children.setdefault((path[-1], token), len(tokens))
            if child == len(tokens):
                tokens.append(token)
                parents.append(path[-1])
            path.append(child)
        predictors.append(path)
    return Tree(tokens, parents, branches, predictors)


def branch_scores(
    model: PreTrainedModel, batch: Generated, cached: Sequence[int], trees: Sequence[Tree]
) -> list[torch.Tensor]:
    """Of each row the (branches,) log-probabilities of its tree's branches, after its prompt and its first `cached` new tokens.

    One forward pass; `batch.cache` is left as it was.
    """
    prompt, device = batch.inputs["attention_mask"].bool(), batch.tokens.device
    past, size = batch.cache.get_seq_length(), max(len(tree.tokens) for tree in trees)
    tokens = torch.zeros(len(trees), size, dtype=torch.long)
    depths = torch.zeros(len(trees), size, dtype=torch.long)
    visible = torch.zeros(len(trees), size, past + size, dtype=torch.bool)
    visible[:, range(size), range(past, past + size)] = (
        True  # itself; padding too, so that no row of the softmax is empty
    )
    for row, tree in enumerate(trees):
        tokens[row, : len(tree.tokens)] = torch.tensor(tree.tokens)
        visible[row, :, : prompt.shape[1]] = prompt[row].cpu()
        visible[row, :, prompt.shape[1] : prompt.shape[1] + cached[row]] = True
        for node, parent in enumerate(tree.parents):
            if parent != PREFIX:
                visible[row, node, past:] |= visible[row, parent, past:]
                depths[row, node] = depths[row, parent] + 1
    before = prompt.sum(1, keepdim=True) + torch.tensor(cached, device=device)[:, None]
    positions = before + depths.to(device) + model.base_model.rope_deltas.to(device)
    mask = torch.zeros(visible.shape, dtype=model.dtype, device=device)
    mask.masked_fill_(~visible.to(device), torch.finfo(model.dtype).min)
    logits = model(
        input_ids=tokens.to(device),
        attention_mask=mask[:, None],
        position_ids=positions.expand(3, -1, -1),
        past_key_values=batch.cache,
        use_cache=True,
    ).logits
    batch.cache.crop(-size)
    scores = []
    for row, tree in enumerate(trees):
        after = logits[row].float().log_softmax(-1)
        parts = [after[path, branch].sum() for path, branch in zip(tree.predictors, tree.branches, strict=True)]
        scores.append(torch.stack(parts))
    return scores


@torch.inference_mode()
def expected_scores(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    batch: Generated,
    tasks: Sequence[Task],
    score_range: tuple[float, float],
) -> list[list[float] | None]:
    """The two expected scores of each row, within `score_range`; None where its completion has no two usable scores.

    The probabilities are the model's own, at temperature 1, whatever the completion was drawn with.
    """
    integers = whole_numbers(score_range)
    digits = [processor.tokenizer.encode(str(integer), add_special_tokens=False) for integer in integers]
    rows: list[tuple[int, list[int], Span, Span]] = []
    for row, (task, response) in enumerate(zip(tasks, batch.responses, strict=True)):
        tokens = batch.tokens[row, : response.completion_tokens].tolist()
        spans = score_spans(tokens, processor) if _usable(response.text, task, score_range) else None
        if spans is not None:
            rows.append((row, tokens, *spans))
    if not rows:
        return [None] * len(tasks)

    def means(trunks: Sequence[list[int]], ends: Sequence[int]) -> tuple[list[float], list[int]]:
        """(mean, index of the most likely integer) of each of `rows`, its integers after `trunks` and before `ends`."""
        trees, cached = [build_tree([0], [[0]])] * len(tasks), [0] * len(tasks)  # rows without scores take part, unread
        for (row, _, first, _), trunk, end in zip(rows, trunks, ends, strict=True):
            trees[row] = build_tree(trunk, [[*number, end] for number in digits])
            cached[row] = first[0] - 1
        scores = branch_scores(model, batch, cached, trees)
        shares = torch.stack([scores[row] for row, *_ in rows]).double().softmax(-1).cpu()
        average = shares @ torch.tensor([*integers], dtype=torch.double)
        return average.tolist(), shares.argmax(-1).tolist()

    # The last token before the first score is fed again: its logits are needed, and only keys and values are cached.
    starts = [tokens[first[0] - 1] for _, tokens, first, _ in rows]
    firsts, likeliest = means([[start] for start in starts], [tokens[first[1]] for _, tokens, first, _ in rows])
    trunks = [
        [start, *digits[best], *tokens[first[1] : second[0]]]
        for start, best, (_, tokens, first, second) in zip(starts, likeliest, rows, strict=True)
    ]
    seconds, _ = means(trunks, [tokens[second[1]] for _, tokens, _, second in rows])
    expected: list[list[float] | None] = [None] * len(tasks)
    for (row, *_), one, other in zip(rows, firsts, seconds, strict=True):
        expected[row] = [one, other]
    return expected


def _usable(text: str, task: Task, score_range: tuple[float, float]) -> bool:
    try:
        return valid_scores(repair(text, task).verdict, score_range) is not None
    except ParseFailure:
        return False
