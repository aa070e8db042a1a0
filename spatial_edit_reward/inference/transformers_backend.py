"""Completions through transformers, on a GPU or a CPU, in batches, with expected scores where they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from spatial_edit_reward import Spec
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.expected_score import (
    MAX_BRANCHES,
    digits_stand_alone,
    expected_scores,
    whole_numbers,
)
from spatial_edit_reward.inference.generation import generate_batch
from spatial_edit_reward.inference.model import load_for_inference
from spatial_edit_reward.inference.request import Backend, Request, Response, Sampling, batched

ENOUGH = 7 / 8  # of a batch's completions: when they have ended, the others are cut off
LOOKAHEAD = 4  # batches whose requests are sorted together
MAX_CUT_OFF = 16  # batches of requests that are put off, with their images, before they are generated again


def open_transformers(
    name: str,
    adapter: Path | None,
    spec: Spec,
    batch_size: int,
    sampling: Sampling | None,
    seed: int,
    expected_score: bool,
) -> Backend:
    """The checkpoint `name`, loaded. Raises UserError where it cannot be, or cannot give expected scores.

    A batch takes as long as its longest completion. So without `sampling` a batch ends with the last but a few, and what was
    cut off there is generated again, with its like, up to the limit. What a batch samples depends on which requests are in it,
    so after a kill, which changes the batches, sampled completions may differ; greedy ones differ by rounding alone, if at all.
    """
    model, processor = load_for_inference(name, spec, adapter)
    if expected_score and not digits_stand_alone(processor):
        raise UserError(f"{name}: expected scores need a tokenizer that writes every digit as a token of its own")
    if expected_score and not 1 <= len(whole_numbers(spec.score_range)) <= MAX_BRANCHES:
        raise UserError(f"{name}: expected scores need a score_range of 1 to {MAX_BRANCHES} whole numbers")

    def run(batch: Sequence[Request], enough: float) -> Iterator[tuple[Request, Response]]:
        if sampling is not None:  # by what is asked, so that it does not matter what came before
            names = "\0".join(f"{request.key} {request.sample}" for request in batch)
            torch.manual_seed(int.from_bytes(hashlib.blake2b(names.encode(), digest_size=6).digest()) + seed)
        chats = [prompt_messages(one.task, one.instruction, spec, len(one.images)) for one in batch]
        images = [request.images for request in batch]
        generated = generate_batch(model, processor, chats, images, spec.max_new_tokens, sampling, enough)
        responses = generated.responses
        if expected_score:
            tasks = [request.task for request in batch]
            expected = expected_scores(model, processor, generated, tasks, spec.score_range)
            responses = [one._replace(expected=pair) for one, pair in zip(responses, expected, strict=True)]
        yield from zip(batch, responses, strict=True)

    def generate(requests: Iterable[Request]) -> Iterator[tuple[Request, Response]]:
        cut_off: list[Request] = []

        def again() -> Iterator[tuple[Request, Response]]:
            for batch in batched(cut_off, batch_size):
                yield from run(batch, 1.0)
            cut_off.clear()

        for window in batched(requests, LOOKAHEAD * batch_size):
            # More images first: prompts of a length share a batch, and what does not fit in memory shows at once.
            for batch in batched(sorted(window, key=lambda request: -len(request.images)), batch_size):
                for request, response in run(batch, ENOUGH if sampling is None else 1.0):
                    if response.truncated and sampling is None:
                        cut_off.append(request)
                    else:
                        yield request, response
            if len(cut_off) >= MAX_CUT_OFF * batch_size:
                yield from again()
        yield from again()

    return generate
