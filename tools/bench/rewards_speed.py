"""Time per completion of the three rule-based rewards, parsing included, on verdicts that the process has never seen.

    python -m pytest tools/bench/rewards_speed.py            # one core: put `taskset -c 0` before it

Read the column Median. "box_iou, torchvision" is the same reward with torchvision's `box_iou` and scipy's matching.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou as torchvision_box_iou  # type: ignore[import-untyped]

from rewards_fn import box_iou, format, score_agreement
from spatial_edit_reward import parse
from spatial_edit_reward.boxes import true_boxes, valid_box

ROUNDS = {4: 1000, 64: 200}
SENTENCE = "the red circle in this place became blue as the instruction asked."
numbers = itertools.count()


def new_row(count: int) -> dict[str, Any]:
    """Columns of one row never made before: `count` boxes against `count`; with 4 boxes the verdict has about 250 tokens."""
    rng = np.random.default_rng(next(numbers))

    def regions() -> list[dict[str, Any]]:
        corners = rng.integers(0, 800, (count, 2))
        boxes = np.concatenate([corners, corners + rng.integers(20, 200, (count, 2))], axis=1).tolist()
        return [{"id": i, "label": "blue circle", "bbox_2d": box} for i, box in enumerate(boxes)]

    cites = " ".join(f"<|bbox_{i}|> {SENTENCE}" for i in range(count))
    verdict = {
        "edit_region": regions(),
        "reasoning": f"{cites} <|global|> every requested edit was done.",
        "score": rng.integers(0, 26, 2).tolist(),
    }
    reference = {"edit_region": regions(), "score": [20.0, 12.5]}
    return {"completions": [json.dumps(verdict)], "reference": [reference], "task": ["sc"]}


def three_rewards(columns: dict[str, Any]) -> list[float | None]:
    rewards: tuple[Callable[..., list[float | None]], ...] = (box_iou, score_agreement, format)
    return [reward(**columns)[0] for reward in rewards]


def torchvision_reward(columns: dict[str, Any]) -> float:
    predicted = [valid_box(region) for region in parse(columns["completions"][0], "sc").edit_region or ()]
    true = true_boxes(columns["reference"][0])
    pairs = torchvision_box_iou(torch.tensor(predicted), torch.tensor(true)).numpy()
    return float(pairs[linear_sum_assignment(pairs, maximize=True)].sum()) / max(len(predicted), len(true))


@pytest.mark.parametrize("count", ROUNDS)
@pytest.mark.parametrize(
    "reward",
    [
        pytest.param(three_rewards, id="all three"),
        pytest.param(lambda columns: box_iou(**columns), id="box_iou"),
        pytest.param(torchvision_reward, id="box_iou, torchvision"),
    ],
)
def test_speed(benchmark: BenchmarkFixture, reward: Any, count: int) -> None:
    torch.set_num_threads(1)
    benchmark.pedantic(reward, setup=lambda: ((new_row(count),), {}), rounds=ROUNDS[count], warmup_rounds=20)


def test_torchvision_gives_the_same() -> None:
    for _ in range(100):
        columns = new_row(4)
        assert torchvision_reward(columns) == pytest.approx(box_iou(**columns)[0])
