"""Trains a tiny base checkpoint on drawn images, on a CPU.

    python -m tools.tiny_base --output_dir FOLDER

Writes the model, processor, chat template and generation configuration. README.md says by which runs the one of this
repository, `recipes/tiny/base`, was made; `python -m tools.tiny_base.measure` measures a checkpoint.
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

from data.synthetic.scene import SHAPES
from tools.tiny_base.comparing import CellHead, compare_tokens
from tools.tiny_base.grounding import Conversation, conversation
from tools.tiny_base.model import CELL, SIDE, SPEC, tiny_model, tiny_processor
from tools.tiny_base.names import CornerHead, NamedItems, look_for_likeness, name_ends, pack, word_ids
from tools.tiny_base.tokenizer import train_tokenizer
from tools.tiny_base.unseen import seen_tokens, separate_unseen_rows
from tools.tiny_base.vision import COLOR_WORDS, ScenesWithTargets, TokenHead, spread_positions

CHECKPOINT = Path(__file__).parents[2] / "recipes" / "tiny" / "base"
SEED = 1
Batch = Any
# Shares of the training time at which ONE_THING, ONE_PICTURE and TWO_PICTURES begin, after the names; sentences that only go
# on from a checkpoint begin where it ended.
LEVEL_STARTS, NO_LEVELS = (0.0, 0.03, 0.2), (0.0, 0.0, 0.0)
# Keys of a batch that say where names end, and of what.
NAMED = ("positions", "corners", "images")
# Weight of the two read-outs, of corners and of the other image, beside the loss on the sentences.
READ_OUT_SHARE = 0.3
# Batches whose rows are sorted by length together, so that little of a batch is padding.
SORTED_TOGETHER = 16


def chat(conversation: Conversation, turns: int | None = None) -> list[dict[str, object]]:
    """The conversation as chat messages, images in the first question; the answer of turn `turns` is left open."""
    messages: list[dict[str, object]] = []
    shown = conversation.turns if turns is None else conversation.turns[: turns + 1]
    for index, turn in enumerate(shown):
        images = [{"type": "image"} for _ in conversation.images] if index == 0 else []
        messages.append({"role": "user", "content": [*images, {"type": "text", "text": turn.question}]})
        if index != turns:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    return messages


class Batches(IterableDataset):
    """Endless batches of processed conversations of like length, labels on the answers only, and where names end."""

    def __init__(
        self, processor: Qwen3VLProcessor, batch: int, seconds: float, starts: tuple[float, ...] = LEVEL_STARTS
    ) -> None:
        self.processor, self.batch, self.seconds, self.starts = processor, batch, seconds, starts
        self.start = time.monotonic()

    def level(self) -> int:
        """The difficulty by the share of the time that is gone."""
        return bisect.bisect(self.starts, (time.monotonic() - self.start) / max(self.seconds, 1e-9)) - 1

    def __iter__(self) -> Iterator[BatchFeature]:
        torch.set_num_threads(1)
        for start in itertools.count(step=SORTED_TOGETHER * self.batch):
            level = self.level()
            rows = [conversation(SEED, start + index, SIDE, level) for index in range(SORTED_TOGETHER * self.batch)]
            rows.sort(key=lambda row: sum(len(question) + len(answer) for question, answer, *_ in row.turns))
            for first in np.random.default_rng(start).permutation(range(0, len(rows), self.batch)):
                yield self.processed(rows[first : first + self.batch])

    def processed(self, rows: list[Conversation]) -> BatchFeature:
        texts = [self.processor.apply_chat_template(chat(row)) for row in rows]
        batch = self.processor(
            text=texts, images=[row.images for row in rows], padding=True, padding_side="right", return_tensors="pt"
        )
        batch["labels"] = answer_labels(batch, self.processor)
        ends = [
            [*name_ends(ids, row.about(), self.processor.tokenizer)]
            for ids, row in zip(batch["input_ids"].tolist(), rows, strict=True)
        ]
        batch.update(pack(ends))
        batch.update(
            compare_tokens(batch["input_ids"] == self.processor.image_token_id, [row.scenes for row in rows], CELL)
        )
        return batch


def answer_labels(batch: BatchFeature, processor: Qwen3VLProcessor) -> torch.Tensor:
    """`input_ids` where an answer stands, its `<|im_end|>` included, and -100 elsewhere."""
    tokenizer = processor.tokenizer
    opening = tokenizer("<|im_start|>assistant\n")["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    labels = torch.full_like(batch["input_ids"], -100)
    for row, ids in enumerate(batch["input_ids"].tolist()):
        answering = False
        for i, token in enumerate(ids):
            if answering:
                labels[row, i] = token
                answering = token != end
            elif ids[i - len(opening) + 1 : i + 1] == opening:
                answering = True
    return labels


def save(model: Qwen3VLForConditionalGeneration, processor: Qwen3VLProcessor, folder: Path) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def schedule(elapsed: float, seconds: float, step: int, peak: float) -> float:
    """Learning rate: 100 steps of warm-up, then a cosine by the clock down to 2 % of `peak`."""
    return (
        peak * min(1, (step + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * min(1, elapsed / max(seconds, 1e-9)))))
    )


def fit_by_the_clock(
    parameters: list[nn.Parameter],
    batches: Iterable[Batch],
    loss_of: Callable[[Batch], torch.Tensor],
    seconds: float,
    peak: float,
    title: str,
) -> Iterator[float]:
    """Trains `parameters` with AdamW for `seconds`; yields the elapsed time after every step."""
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    start = time.monotonic()
    losses: deque[float] = deque(maxlen=100)
    with tqdm(total=round(seconds), unit="s", desc=title) as progress:
        for step, batch in enumerate(batches):
            elapsed = time.monotonic() - start
            if elapsed >= seconds:
                return
            for group in optimizer.param_groups:
                group["lr"] = schedule(elapsed, seconds, step, peak)
            loss = loss_of(batch)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            progress.update(round(elapsed) - progress.n)
            progress.set_postfix(step=step, loss=f"{sum(losses) / len(losses):.3f}")
            yield elapsed


def train(minutes: tuple[float, float, float], start: Path | None, output_dir: Path) -> None:
    """Trains for these minutes of wall time each: the tower alone, names after images, sentences.

    From random weights, or from those of the checkpoint `start`. After its part the tower is frozen, as it is in stage 1:
    trained along, it forgot the colors before the language model had learnt to read them.
    """
    set_seed(SEED)
    if start is None:
        tokenizer = train_tokenizer(SPEC)
        processor, model = tiny_processor(tokenizer), tiny_model(tokenizer)
        spread_positions(model)
        look_for_likeness(model)
    else:
        model = Qwen3VLForConditionalGeneration.from_pretrained(start)
        processor = Qwen3VLProcessor.from_pretrained(start)
        tokenizer = processor.tokenizer
    tower, names, sentences = (60 * part for part in minutes)

    visual, words = model.model.visual, model.get_input_embeddings().weight.detach()
    token_head = TokenHead(words[list(word_ids(tokenizer, (*COLOR_WORDS, *SHAPES)).values())], SIDE)
    scenes = DataLoader(ScenesWithTargets(processor, 64, SIDE, SEED), batch_size=None, num_workers=1)
    for _ in fit_by_the_clock(
        [*visual.parameters(), *token_head.parameters()],
        scenes,
        lambda batch: token_head.loss(visual(batch[0], grid_thw=batch[1]).pooler_output, batch[2]),
        tower,
        3e-3,
        "vision tower",
    ):
        pass
    save(model, processor, output_dir)

    visual.requires_grad_(False)
    hidden = model.config.text_config.hidden_size
    corner_head, cell_head = CornerHead(hidden, SIDE), CellHead(hidden, SIDE)
    heads = (model, corner_head, cell_head)
    trained = [parameter for head in heads for parameter in head.parameters() if parameter.requires_grad]

    def names_loss(batch: Batch) -> torch.Tensor:
        named = [batch.pop(key) for key in NAMED]
        states = model.model(**batch, use_cache=False, output_hidden_states=True).hidden_states
        return corner_head.loss(states, *named)

    names_after_images = DataLoader(NamedItems(processor, 128, SIDE, SEED), batch_size=None, num_workers=1)
    for _ in fit_by_the_clock(trained, names_after_images, names_loss, names, 1.5e-3, "names"):
        pass
    save(model, processor, output_dir)

    def sentences_loss(batch: Batch) -> torch.Tensor:
        named, cells, cell_targets = [batch.pop(key) for key in NAMED], batch.pop("cells"), batch.pop("cell_targets")
        outputs = model(**batch, use_cache=False, output_hidden_states=True)
        states = outputs.hidden_states
        read_out = corner_head.loss(states, *named) + cell_head.loss(states, cells, cell_targets)
        return outputs.loss + READ_OUT_SHARE * read_out

    saved = 0.0
    conversations = Batches(processor, 16, sentences, LEVEL_STARTS if start is None else NO_LEVELS)
    talks = DataLoader(conversations, batch_size=None, num_workers=1, prefetch_factor=4)
    for elapsed in fit_by_the_clock(trained, talks, sentences_loss, sentences, 1.5e-3, "sentences"):
        if elapsed - saved > 300:
            save(model, processor, output_dir)
            saved = elapsed
    separate_unseen_rows(model, seen_tokens(tokenizer, SEED, SIDE), SEED)
    save(model, processor, output_dir)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tower", 18), ("names", 8), ("sentences", 70)):
        text = f"minutes of training for the {name} (default: %(default)s; 0: skip)"
        parser.add_argument(f"--{name}_minutes", type=float, default=default, metavar="N", help=text)
    parser.add_argument("--start", type=Path, help="checkpoint to continue from (default: random weights)")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write the checkpoint to")
    arguments = parser.parse_args()
    minutes = (arguments.tower_minutes, arguments.names_minutes, arguments.sentences_minutes)
    train(minutes, arguments.start, arguments.output_dir)


if __name__ == "__main__":
    main()
