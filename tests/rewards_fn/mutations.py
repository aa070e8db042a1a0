"""Mutated completions: no reward raises on one or leaves 0..1. `python -m tests.rewards_fn.mutations --count 1000000`.

A mutation cuts, repeats, swaps or replaces pieces of a true verdict, or puts something hostile in one of its values.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections import Counter

from tqdm import tqdm

from rewards_fn import box_iou, format, score_agreement
from spatial_edit_reward import Task, render

REFERENCE = {
    "edit_region": [
        {"id": 0, "label": "cup", "bbox_2d": [10, 20, 300, 400]},
        {"id": 1, "label": "lamp", "bbox_2d": [500.5, 20, 900, 999]},
    ],
    "score": [20.0, 12.5],
    "reasoning": "<|bbox_0|> the cup is red now. <|bbox_1|> the lamp was moved here. <|global|> both edits were done.",
}
TEXTS: dict[Task, str] = {"sc": render("sc", REFERENCE), "pq": render("pq", REFERENCE)}
TOKENS = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    '"',
    "\\",
    "NaN",
    "Infinity",
    "-",
    "1e999",
    "null",
    "true",
    "\x00",
    "\n",
    "```json",
    "<think>",
]
TOKENS += [
    "<|bbox_0|>",
    "<|global|>",
    "<|bbox_99|>",
    f"<|bbox_{'9' * 5000}|>",
    "é",
    "\ud800",
    "🙂",
    "\u202e",
    "\ufeff",
    "\\ud800",
    "score",
]
VALUES = [
    None,
    True,
    "12",
    -1,
    26,
    1e308,
    10**400,
    [],
    {},
    [[]],
    {"id": 0},
    [1, 2],
    "x" * 3000,
    0.1 + 0.2,
    -0.0,
    5e-324,
]


def deep(opening: str, closing: str) -> str:
    return opening * 20_000 + closing * 20_000


def hostile(rng: random.Random, task: Task) -> str:
    """A verdict with something that parsers choke on: endless digits, bottomless nesting, keys twice or out of order."""
    text = TEXTS[task]
    kind = rng.randrange(6)
    if kind == 0:
        return text.replace("20", "9" * 5000, 1)
    if kind == 1:
        return text.replace('"score": [', f'"score": [{deep("[", "]")}, ', 1)
    if kind == 2:
        return deep('{"a":', "}") if rng.random() < 0.5 else deep("[", "]")
    if kind == 3:
        return text[:-1] + ', "score": [1, 2]}'
    verdict = json.loads(text)
    keys = list(verdict)
    rng.shuffle(keys)
    if kind == 4:
        return json.dumps({key: verdict[key] for key in keys})
    return json.dumps({key: verdict[key] for key in keys[:-1]})


def revalued(rng: random.Random, task: Task) -> str:
    """A verdict with one of its values, at any depth, replaced by one of VALUES."""
    verdict = json.loads(TEXTS[task])
    slots = []
    todo = [verdict]
    while todo:
        node = todo.pop()
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            slots.append((node, key))
            if isinstance(value, dict | list):
                todo.append(value)
    node, key = slots[rng.randrange(len(slots))]
    node[key] = rng.choice(VALUES)
    return json.dumps(verdict)


def cut(rng: random.Random, text: str) -> str:
    """`text` after up to five random cuts, insertions, repeats and swaps of characters."""
    for _ in range(rng.randint(1, 5)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.randrange(12))
        kind = rng.randrange(5)
        if kind == 0:
            text = text[:start]
        elif kind == 1:
            text = text[:start] + text[end:]
        elif kind == 2:
            text = text[:start] + rng.choice(TOKENS) + text[start:]
        elif kind == 3:
            text = text[:end] + text[start:]
        else:
            text = text[:start] + text[start:end][::-1] + text[end:]
    return text


def mutated(seed: int, number: int) -> tuple[Task, str]:
    """Mutation `number` of a seed: its task and the completion."""
    rng = random.Random(f"{seed} {number}")
    task: Task = "sc" if rng.random() < 0.7 else "pq"
    kind = rng.random()
    if kind < 0.002:
        return task, hostile(rng, task)
    return task, cut(rng, TEXTS[task]) if kind < 0.6 else revalued(rng, task)


def check(seed: int, count: int, show_progress: bool) -> Counter[str]:
    """Scores `count` mutations with every rule; returns how many were unparsed and valid.

    Raises AssertionError, with the mutation's number, for a value that is not finite in 0..1.
    """
    seen: Counter[str] = Counter()
    batch = 500
    for first in tqdm(range(0, count, batch), disable=not show_progress, unit=" x 500"):
        made = [mutated(seed, number) for number in range(first, min(count, first + batch))]
        columns = {
            "completions": [text for _, text in made],
            "reference": [REFERENCE] * len(made),
            "task": [task for task, _ in made],
        }
        for reward in (box_iou, score_agreement, format):
            for i, value in enumerate(reward(**columns)):
                applies = reward is not box_iou or made[i][0] == "sc"
                right = value is None if not applies else isinstance(value, float) and 0.0 <= value <= 1.0
                assert right and not (value is not None and math.isnan(value)), (
                    f"{reward.__name__} gave {value!r} for mutation {first + i} of seed {seed}"
                )
                if reward is format:
                    seen["unparsed" if value == 0 else "valid" if value == 1 else "between"] += 1
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="mutations (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other mutations (default: %(default)s)")
    arguments = parser.parse_args()
    seen = check(arguments.seed, arguments.count, sys.stderr.isatty())
    print(f"{arguments.count} mutations, no exception, every value finite in 0..1: {dict(seen)}")


if __name__ == "__main__":
    main()
