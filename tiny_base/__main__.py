"""Builds the tiny base checkpoint: `python -m tiny_base` (CPU; the pictures it learns from are endless).

Writes `tiny_base/checkpoint/` (model, processor, chat template, generation configuration). The figures of
the checkpoint in the repository are in `tiny_base/README.md`; `python -m tiny_base.measure` measures them again.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm
from transformers import BatchFeature, Qwen3VLForConditionalGeneration, Qwen3VLProcessor, set_seed

from tiny_base.grounding import Conversation, conversation
from tiny_base.model import SIDE, SPEC, tiny_model, tiny_processor
from tiny_base.tokenizer import train_tokenizer
from tiny_base.unseen import seen_tokens, separate_unseen_rows
from tiny_base.vision import ScenesWithTargets, TokenHead, spread_positions

CHECKPOINT = Path(__file__).parent / "checkpoint"
SEED = 1
Batch = Any
# Shares of the training time at which ONE_THING, ONE_PICTURE and TWO_PICTURES begin.
LEVEL_STARTS = (0.0, 0.12, 0.5)
# Batches whose rows are sorted by length together, so that little of a batch is padding.
SORTED_TOGETHER = 16


def chat(conversation: Conversation, turns: int | None = None) -> list[dict[str, object]]:
    """The conversation as chat messages, pictures in the first question; the answer of turn `turns` is left open."""
    messages: list[dict[str, object]] = []
    shown = conversation.turns if turns is None else conversation.turns[: turns + 1]
    for index, (question, answer) in enumerate(shown):
        pictures = [{"type": "image"} for _ in conversation.images] if index == 0 else []
        messages.append({"role": "user", "content": [*pictures, {"type": "text", "text": question}]})
        if index != turns:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages


class Batches(IterableDataset):
    """Endless batches of processed conversations of like length, with labels on the answers only."""

    def __init__(self, processor: Qwen3VLProcessor, batch: int, seconds: float) -> None:
        self.processor, self.batch, self.seconds, self.start = processor, batch, seconds, time.monotonic()

    def level(self) -> int:
        """The difficulty by the share of the time that is gone."""
        return bisect.bisect(LEVEL_STARTS, (time.monotonic() - self.start) / self.seconds) - 1

    def __iter__(self) -> Iterator[BatchFeature]:
        torch.set_num_threads(1)
        for start in itertools.count(step=SORTED_TOGETHER * self.batch):
            level = self.level()
            rows = [conversation(SEED, start + index, SIDE, level) for index in range(SORTED_TOGETHER * self.batch)]
            rows.sort(key=lambda row: sum(len(question) + len(answer) for question, answer in row.turns))
            for first in np.random.default_rng(start).permutation(range(0, len(rows), self.batch)):
                yield self.processed(rows[first : first + self.batch])

    def processed(self, rows: list[Conversation]) -> BatchFeature:
        texts = [self.processor.apply_chat_template(chat(row)) for row in rows]
        batch = self.processor(
            text=texts, images=[row.images for row in rows], padding=True, padding_side="right", return_tensors="pt"
        )
        batch["labels"] = answer_labels(batch, self.processor)
        return batch


def answer_labels(batch: BatchFeature, processor: Qwen3VLProcessor) -> torch.Tensor:
    """`input_ids` where an answer stands, its `<|im_end|>` included, and -100 elsewhere."""
    tokenizer = processor.tokenizer
    opening = tokenizer("<|im_start|>assistant\n")["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    labels = torch.full_like(batch["input_ids"], -100)
    for row, ids in enumerate(batch["input_ids"].tolist()):
        answering = False
        for place, token in enumerate(ids):
            if answering:
                labels[row, place] = token
                answering = token != end
            elif ids[place - len(opening) + 1 : place + 1] == opening:
                answering = True
    return labels


def save(model: Qwen3VLForConditionalGeneration, processor: Qwen3VLProcessor, folder: Path) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def schedule(elapsed: float, seconds: float, step: int, peak: float) -> float:
    """Learning rate: 100 steps of warm-up, then a cosine by the clock down to 2 % of `peak`."""
    return peak * min(1, (step + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * min(1, elapsed / seconds))))


def fit_by_the_clock(
    parameters: list[nn.Parameter],
    batches: Iterable[Batch],
    loss_of: Callable[[Batch], torch.Tensor],
    seconds: float,
    peak: float,
    title: str,
) -> Iterator[float]:
    """Trains `parameters` with AdamW for `seconds`; yields the elapsed time after every step."""
    optimiser = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    start = time.monotonic()
    losses: deque[float] = deque(maxlen=100)
    with tqdm(total=round(seconds), unit="s", desc=title) as progress:
        for step, batch in enumerate(batches):
            elapsed = time.monotonic() - start
            if elapsed >= seconds:
                return
            for group in optimiser.param_groups:
                group["lr"] = schedule(elapsed, seconds, step, peak)
            loss = loss_of(batch)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
            progress.update(round(elapsed) - progress.n)
            progress.set_postfix(step=step, loss=f"{sum(losses) / len(losses):.3f}")
            yield elapsed


def train(vision_minutes: float, minutes: float, start: Path | None) -> None:
    """Trains for these minutes of wall time: the vision tower alone, then the language model on sentences.

    From random weights, or from those of the checkpoint `start`. The tower is frozen for the sentences, as it is in stage 1:
    trained along, it forgot the colours before the language model had learnt to read them.
    """
    set_seed(SEED)
    if start is None:
        tokenizer = train_tokenizer(SPEC)
        processor, model = tiny_processor(tokenizer), tiny_model(tokenizer)
        spread_positions(model)
    else:
        model = Qwen3VLForConditionalGeneration.from_pretrained(start)
        processor = Qwen3VLProcessor.from_pretrained(start)
        tokenizer = processor.tokenizer

    visual, head = model.model.visual, TokenHead(model.config.vision_config.out_hidden_size, SIDE)
    scenes = DataLoader(ScenesWithTargets(processor, 64, SIDE, SEED), batch_size=None, num_workers=1)
    for _ in fit_by_the_clock(
        [*visual.parameters(), *head.parameters()],
        scenes,
        lambda batch: head.loss(visual(batch[0], grid_thw=batch[1]).pooler_output, batch[2]),
        vision_minutes * 60,
        3e-3,
        "vision tower",
    ):
        pass
    save(model, processor, CHECKPOINT)

    saved = 0.0
    visual.requires_grad_(False)
    talks = DataLoader(Batches(processor, 16, minutes * 60), batch_size=None, num_workers=1, prefetch_factor=4)
    for elapsed in fit_by_the_clock(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        talks,
        lambda batch: model(**batch, use_cache=False).loss,
        minutes * 60,
        1.5e-3,
        "sentences",
    ):
        if elapsed - saved > 300:
            save(model, processor, CHECKPOINT)
            saved = elapsed
    separate_unseen_rows(model, seen_tokens(tokenizer, SEED, SIDE), SEED)
    save(model, processor, CHECKPOINT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--vision-minutes", type=float, default=12, help="wall time for the tower (default: %(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=45, help="wall time for the sentences (default: %(default)s)")
    parser.add_argument("--start", type=Path, help="checkpoint to go on from (default: random weights)")
    arguments = parser.parse_args()
    train(arguments.vision_minutes, arguments.minutes, arguments.start)
