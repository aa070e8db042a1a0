"""Held-out metrics on cases computed by hand, and their intervals."""

import json
import math

import numpy as np
import pytest

from evaluation.metrics import METRICS, GroupSums, group_sums, interval, ranking_parts, score_rows
from rewards_fn import RULES, box_iou, format, load_rewards, score_agreement
from rewards_fn.load import RESERVED
from spatial_edit_reward import Spec, render

SPEC = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=320)
REWARDS, WEIGHTS = [box_iou, score_agreement, format], [2.0, 1.0, 0.5]


def row(identity, task, score, region=None, group="g"):
    reference = {"score": score, "reasoning": "it is all clean here", "edit_region": None}
    if task == "sc":
        boxes = [{"id": 0, "label": "cup", "bbox_2d": region}] if region else []
        cite = "<|bbox_0|> the cup is red. " if region else ""
        reference |= {"edit_region": boxes, "reasoning": f"{cite}<|global|> it was done well."}
    return {"id": f"{identity}-{task}", "task": task, "instruction": "x", "reference": reference, "group": group}


ROWS = [
    row("a", "sc", [25.0, 25.0], [0, 0, 100, 100]),
    row("a", "pq", [25.0, 25.0]),
    row("b", "sc", [0.0, 25.0]),
    row("b", "pq", [10.0, 5.0]),
]


def sums_of(completions, truncated=None):
    scored = score_rows(ROWS, completions, REWARDS, WEIGHTS, SPEC)
    return group_sums(ROWS, scored, truncated or [False] * len(ROWS), SPEC)


def test_the_references_own_verdicts_get_everything():
    sums = sums_of([render(r["task"], r["reference"]) for r in ROWS])
    expected = {"valid": 1, "box_iou": 1, "empty_region": 1, "score_agreement": 1, "score_mae": 0, "reward": 1}
    assert {name: sums[name].mean for name in expected} == expected
    assert sums["ranking_accuracy"].mean == 1 and sums["tie_rate"].mean == 0
    assert sums["box_iou"].denominator.sum() == 1 and sums["empty_region"].denominator.sum() == 1


def test_figures_by_hand():
    half = json.loads(render("sc", ROWS[0]["reference"]))
    half["edit_region"][0]["bbox_2d"] = [0, 0, 50, 100]
    half["score"] = [20, 25]
    sums = sums_of([json.dumps(half), "nothing", render("sc", ROWS[2]["reference"]), "nothing"], [0, 1, 0, 0])
    assert sums["valid"].mean == 0.5 and sums["truncated"].mean == 0.25
    assert sums["box_iou"].mean == 0.5
    assert sums["score_mae"].mean == (2.5 + 0) / 2 and sums["score_mae"].denominator.sum() == 2
    rewards = [(2 * 0.5 + 0.9 + 0.5) / 3.5, 0, 1, 0]
    assert math.isclose(sums["reward"].mean, np.mean(rewards))
    # both candidates lack a usable pq verdict: no order, and no tie either
    assert sums["ranking_accuracy"].mean == 0 and sums["tie_rate"].mean == 0


@pytest.mark.parametrize(
    ("candidates", "right", "tied", "pairs"),
    [
        ([(1.0, 0.9), (0.5, 0.1)], 1, 0, 1),
        ([(1.0, 0.1), (0.5, 0.9)], 0, 0, 1),
        ([(1.0, 0.5), (0.5, 0.5)], 0, 1, 1),
        ([(1.0, None), (0.5, 0.5)], 0, 0, 1),
        ([(0.50, 0.9), (0.46, 0.1)], 0, 0, 0),
        ([(0.50, 0.9), (0.45, 0.1)], 1, 0, 1),
        ([(0.9, 0.9), (0.5, 0.5), (0.1, 0.7)], 2, 0, 3),
    ],
)
def test_ranking(candidates, right, tied, pairs):
    assert ranking_parts(candidates) == {"ranking_accuracy": (right, pairs), "tie_rate": (tied, pairs)}


def test_intervals_resample_groups_and_pair_differences():
    rng = np.random.default_rng(0)
    sums = GroupSums(rng.integers(0, 5, 60).astype(float), np.full(60, 4.0))
    figures = interval(sums, 500, 0)
    assert figures["low"] < figures["mean"] < figures["high"]
    # the spread that the normal approximation gives for a mean of 60 groups
    spread = (sums.numerator / 4).std() / np.sqrt(60)
    assert math.isclose(figures["high"] - figures["low"], 2 * 1.96 * spread, rel_tol=0.25)
    assert interval(sums, 500, 0) == figures
    better = GroupSums(sums.numerator + 1, sums.denominator)
    paired = interval(better, 500, 0, minus=sums)
    assert math.isclose(paired["low"], 0.25) and math.isclose(paired["high"], 0.25)


def test_a_metric_without_rows_is_undefined():
    nothing = GroupSums(np.zeros(4), np.zeros(4))
    assert interval(nothing, 100, 0) == {"mean": None, "low": None, "high": None}


def test_an_interval_holds_95_percent():
    values = np.random.default_rng(1).normal(size=400)
    figures = interval(GroupSums(values, np.ones(400)), 4000, 0)
    assert math.isclose(figures["high"] - figures["low"], 2 * 1.96 * values.std() / 20, rel_tol=0.04)


def test_no_metric_has_a_name_that_a_reward_can_have():
    assert set(METRICS) - set(RULES) <= RESERVED


def brevity(completions, task, **kwargs):
    """A reward of one's own: it applies to `sc` alone."""
    texts = [completion[0]["content"] for completion in completions]
    return [float(len(text) < 10) if of == "sc" else None for text, of in zip(texts, task, strict=True)]


def test_a_reward_of_ones_own_is_a_metric_and_in_the_weighted_reward():
    rewards = load_rewards(["format", "tests.evaluation.test_metrics:brevity"])
    completions = [render(r["task"], r["reference"]) if i else "nothing" for i, r in enumerate(ROWS)]
    scored = score_rows(ROWS, completions, rewards, [1.0, 3.0], SPEC)
    sums = group_sums(ROWS, scored, [False] * len(ROWS), SPEC)
    assert [name for name in sums if name not in RULES] == [*(name for name in METRICS if name not in RULES), "brevity"]
    assert sums["brevity"].mean == 0.5 and sums["brevity"].denominator.sum() == 2
    assert [values["reward"] for values in scored] == [0.75, 1.0, 0.25, 1.0]
