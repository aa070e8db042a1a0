"""`python -m rewards_fn score`, as a user runs it."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

REFERENCE = {"edit_region": [{"id": 0, "label": "cup", "bbox_2d": [0, 0, 100, 100]}], "score": [20, 10]}
HALF = {
    "edit_region": [{"id": 0, "label": "cup", "bbox_2d": [0, 0, 50, 100]}],
    "reasoning": "<|bbox_0|> the cup is red. <|global|> it was done well.",
    "score": [15, 10],
}
ROWS = [
    {"id": "a", "task": "sc", "completion": json.dumps(HALF), "reference": REFERENCE},
    {"id": "b", "task": "sc", "completion": json.dumps({**HALF, "reasoning": "<|bbox_0|>"}), "reference": REFERENCE},
    {"id": "c", "task": "pq", "completion": "well", "reference": {**REFERENCE, "edit_region": None}},
]


def score(lines, *options):
    return subprocess.run(
        [sys.executable, "-m", "rewards_fn", "score", "-", *options],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def test_rows_come_back_in_order_with_rewards_and_reasons():
    done = score([*map(json.dumps, ROWS), ""])
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [{key: row[key] for key in ROWS[0]} for row in rows] == ROWS
    assert rows[0]["rewards"] == {"box_iou": 0.5, "score_agreement": 0.9, "format": 1.0}
    assert "why" not in rows[0]
    assert rows[1]["why"] == "has_global_tag, tags_followed_by_words, reasoning_not_empty"
    assert rows[2]["rewards"] == {"box_iou": None, "score_agreement": 0.0, "format": 0.0}
    assert rows[2]["why"].startswith("no JSON")
    assert "3 rows, 1 valid" in done.stderr
    assert "score_agreement" in done.stderr


def test_rewards_can_be_chosen_with_keywords():
    done = score([json.dumps(ROWS[0])], "--rewards", '[{"box_iou": {"power": 2}}, "format"]')
    assert json.loads(done.stdout)["rewards"] == {"box_iou": 0.25, "format": 1.0}


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["{"], [], "line 1: not JSON"),
        ([json.dumps(ROWS[0]), "[" * 20_000], [], "line 2: not JSON"),
        (["[]"], [], "line 1"),
        ([json.dumps({**ROWS[0], "task": "ab"})], [], "task: Input should be 'sc' or 'pq'"),
        ([json.dumps({"task": "sc", "completion": ""})], [], "reference: Field required"),
        ([json.dumps({**ROWS[0], "reference": {**REFERENCE, "score": [1]}})], [], "reference.score"),
        (
            [json.dumps({**ROWS[0], "reference": {**REFERENCE, "edit_region": [{"bbox_2d": [9, 0, 1, 1]}]}})],
            [],
            "x1 < x2",
        ),
        ([], ["--rewards", "boxes"], "unknown reward 'boxes'; known: box_iou"),
        ([], ["--rewards", "box_iou,box_iou"], "named twice"),
        ([], ["--rewards", "judge"], "'judge': it needs model"),
        ([], ["--rewards", "trl:get_repetition_penalty_reward"], "needs completion_ids"),
        ([], ["--rewards", '[{"box_iou": {"powr": 2}}]'], "takes no powr"),
    ],
)
def test_bad_input_is_one_line(lines, options, message):
    done = score(lines, *options)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
