"""The held-out verdicts of one model, one JSON line each, as they come: a killed run goes on where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path

from datasets import Dataset
from peft import PeftModel
from tqdm import tqdm

from spatial_edit_reward import Spec
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.files import read_lines
from spatial_edit_reward.inference.generation import generate, in_batches
from spatial_edit_reward.inference.model import load_model, load_processor

ENOUGH = 7 / 8  # of a batch


def write_verdicts(
    name: str, weights: str, adapter: Path | None, rows: Dataset, spec: Spec, batch_size: int, file: Path
) -> None:
    """Appends the greedy verdict of every row that `file` lacks, longest prompts first, synced to disk per batch.

    A batch takes as long as its longest verdict. So in the first round one ends with the last but a few, and what was cut
    off there is asked again, with its like, up to the limit.
    """
    done = {line["id"] for line in read_lines(file)}
    tasks = list(rows["task"])  # the column alone: a whole row would decode its images
    left = [place for place, identity in enumerate(rows["id"]) if identity not in done]
    left.sort(key=lambda place: tasks[place] == "pq")
    if not left:
        return
    model, processor = load_model(weights, None, None), load_processor(weights, spec)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    with file.open("a") as out, tqdm(total=len(rows), initial=len(done), desc=f"verdicts of {name}", unit="row") as bar:
        for enough in (ENOUGH, 1.0):
            cut_off = []
            for places in in_batches(len(left), batch_size):
                batch = [left[place] for place in places]
                part = [rows[place] for place in batch]
                messages = [prompt_messages(row["task"], row["instruction"], spec) for row in part]
                images = [row["images"] for row in part]
                said = generate(model, processor, messages, images, spec.max_new_tokens, enough=enough)
                for place, row, completion in zip(batch, part, said, strict=True):
                    if completion.truncated and enough < 1:
                        cut_off.append(place)
                        continue
                    line = {"id": row["id"], "completion": completion.text, "truncated": completion.truncated}
                    out.write(json.dumps(line, ensure_ascii=False) + "\n")
                    bar.update()
                out.flush()
                os.fsync(out.fileno())
            left = cut_off
