"""Measures a base checkpoint: `python -m tools.tiny_base.measure`. How well it grounds, and that it knows nothing of verdicts.

Grounding IoU: mean over questions about an item that is there of the IoU of the box in the answer (0 where there is none).
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from pathlib import Path

from transformers import PreTrainedModel, ProcessorMixin

from data.synthetic.generate import group_rows, normalized
from rewards_fn import box_iou, format
from rewards_fn.box_iou import matched_iou
from spatial_edit_reward.boxes import true_boxes, valid_box
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.images import fit
from spatial_edit_reward.inference.generation import generate_batch
from spatial_edit_reward.inference.model import load_model, load_processor
from spatial_edit_reward.inference.request import batched
from tools.tiny_base.__main__ import CHECKPOINT, chat
from tools.tiny_base.grounding import Conversation, conversation
from tools.tiny_base.model import SIDE, SPEC
from tools.tiny_base.names import boxes_of

# Conversations and groups that no training run sees.
SEED = 1_000_003
BOX = re.compile(r"(\d+),? (\d+)(?: to|,) (\d+),? (\d+)")


def kind_of(talk: Conversation) -> str:
    """Whether the item that the first turn asks for stands elsewhere in another image; that turn has a box."""
    if len(talk.scenes) == 1:
        return "one image"
    ((index, boxes),) = talk.about()[0]
    name = next(name for name, box in boxes.items() if normalized(box, (SIDE, SIDE)) == talk.turns[0].box)
    there = boxes_of(talk.scenes[1 - index]).get(name, boxes[name])
    return "two images, same position" if there == boxes[name] else "two images, other position"


def grounding(model: PreTrainedModel, processor: ProcessorMixin, count: int, batch: int) -> dict[str, float]:
    """Mean grounding IoU over the first question of each of `count` conversations, by `kind_of`."""
    talks = [conversation(SEED, number, SIDE) for number in range(count)]
    talks = [talk for talk in talks if talk.turns[0].box is not None]
    by_kind = defaultdict[str, list[float]](list)
    for part in batched(talks, batch):
        chats, images = [chat(talk, 0) for talk in part], [talk.images for talk in part]
        answers = generate_batch(model, processor, chats, images, 100).responses
        for talk, answer in zip(part, answers, strict=True):
            numbers = BOX.search(answer.text)
            box = valid_box({"bbox_2d": [int(number) for number in numbers.groups()]}) if numbers else None
            by_kind[kind_of(talk)].append(
                matched_iou([box], true_boxes({"edit_region": [{"bbox_2d": talk.turns[0].box}]}))
            )
    return {kind: sum(values) / len(values) for kind, values in sorted(by_kind.items())}


def verdicts(model: PreTrainedModel, processor: ProcessorMixin, groups: int, batch: int) -> dict[str, float]:
    """Share of valid verdicts and mean box IoU (rows with a true region) on the verdict prompts of `groups` groups."""
    rows = [row for number in range(groups) for row in group_rows(SEED, number, SIDE)]
    texts: list[str] = []
    for part in batched(rows, batch):
        messages = [prompt_messages(row["task"], row["instruction"], SPEC) for row in part]
        images = [[fit(image, SPEC.pixels) for image in row["images"]] for row in part]
        texts += [c.text for c in generate_batch(model, processor, messages, images, SPEC.max_new_tokens).responses]
    reference, task = [row["reference"] for row in rows], [row["task"] for row in rows]
    valid = format(texts, task)
    boxes = [
        value
        for value, truth in zip(box_iou(texts, reference, task), reference, strict=True)
        if value is not None and truth["edit_region"]
    ]
    return {"valid": sum(value == 1.0 for value in valid) / len(valid), "box IoU": sum(boxes) / len(boxes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=CHECKPOINT, help="checkpoint folder (default: the repository's)")
    parser.add_argument("--conversations", type=int, default=600, help="number of conversations (default: %(default)s)")
    parser.add_argument("--groups", type=int, default=12, help="groups of verdict prompts (default: %(default)s)")
    arguments = parser.parse_args()
    model, processor = load_model(str(arguments.model), None, None), load_processor(str(arguments.model), SPEC)
    print(f"parameters: {model.num_parameters():,}")
    for kind, value in grounding(model, processor, arguments.conversations, 64).items():
        print(f"grounding IoU, {kind}: {value:.3f}")
    for name, value in verdicts(model, processor, arguments.groups, 48).items():
        print(f"verdict prompts, {name}: {value:.3f}")


if __name__ == "__main__":
    main()
