"""Verdicts through transformers, on a GPU or a CPU, in batches, with expected scores where they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from accelerate import PartialState

from spatial_edit_reward import Spec
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.expected_score import digits_stand_alone, expected_scores
from spatial_edit_reward.inference.generation import Sampling, generate_batch, in_batches
from spatial_edit_reward.inference.model import load_model, load_processor
from spatial_edit_reward.inference.request import Backend, Request, Response


def open_transformers(
    model_name: str, spec: Spec, batch_size: int, temperature: float, expected_score: bool
) -> Backend:
    """The checkpoint `model_name`, loaded. Raises UserError where it cannot be, or cannot give expected scores."""
    processor = load_processor(model_name, spec)
    if expected_score and not digits_stand_alone(processor):
        raise UserError(f"{model_name}: expected scores need a tokenizer that writes every digit as a token of its own")
    device = PartialState(cpu=not torch.cuda.is_available()).device
    model = load_model(model_name, "auto", None).to(device)
    sampling = Sampling(temperature, top_p=1.0) if temperature > 0 else None

    def ask(questions: Sequence[Request]) -> Iterator[tuple[Request, Response]]:
        # More pictures first: prompts of a length share a batch, and what does not fit in memory shows at once.
        ordered = sorted(questions, key=lambda question: -len(question.images))
        for places in in_batches(len(ordered), batch_size):
            part = [ordered[place] for place in places]
            if sampling is not None:  # by what is asked, so that it does not matter what came before
                named = "\0".join(f"{question.key} {question.sample}" for question in part)
                torch.manual_seed(int.from_bytes(hashlib.blake2b(named.encode(), digest_size=6).digest()))
            chats = [prompt_messages(one.task, one.instruction, spec, len(one.images)) for one in part]
            images = [question.images for question in part]
            batch = generate_batch(model, processor, chats, images, spec.max_new_tokens, sampling)
            tasks = [question.task for question in part]
            expected: list[list[float] | None] = [None] * len(part)
            if expected_score:
                expected = expected_scores(model, processor, batch, tasks, spec.score_range)
            lengths = batch.inputs["attention_mask"].sum(1).tolist()
            for row, (question, said) in enumerate(zip(part, batch.completions, strict=True)):
                yield question, Response(said.text, said.truncated, expected[row], lengths[row], batch.lengths[row])

    return ask
