"""`python -m rewards_fn score`, as a user runs it."""

import io
import json
import sys

import pytest

from rewards_fn import RULES
from rewards_fn.__main__ import main
from tests.conftest import run_stage

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


@pytest.fixture
def score(monkeypatch, capsys):
    """The command in this process, the lines on its standard input: the scored rows, the summary, and the error if any."""

    def run(lines, *options):
        monkeypatch.setattr(sys, "argv", ["rewards_fn", "score", "-", *options])
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
        error = None
        try:
            main()
        except SystemExit as end:
            error = end.code
        captured = capsys.readouterr()
        return [json.loads(line) for line in captured.out.splitlines()], captured.err, error

    return run


def test_rows_come_back_in_order_with_rewards_and_reasons():
    names = "box_iou,score_agreement,format"
    done = run_stage("rewards_fn", "score", "-", "--rewards", names, input="\n".join([*map(json.dumps, ROWS), ""]))
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


def test_rewards_are_all_the_built_in_ones_or_chosen_with_keywords(score):
    rows, _, _ = score([json.dumps(ROWS[0])])
    assert list(rows[0]["rewards"]) == list(RULES)
    rows, _, _ = score([json.dumps(ROWS[0])], "--rewards", '[{"box_iou": {"power": 2}}, "format"]')
    assert rows[0]["rewards"] == {"box_iou": 0.25, "format": 1.0}


@pytest.mark.parametrize("file", [False, True])
def test_a_byte_order_mark_is_read(score, tmp_path, file):
    lines = "\ufeff" + "\n".join(map(json.dumps, ROWS))
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    if file:
        done = run_stage("rewards_fn", "score", str(tmp_path / "rows.jsonl"))
        assert done.returncode == 0 and len(done.stdout.splitlines()) == len(ROWS), done.stderr
    else:
        scored, _, error = score([lines])
        assert error is None and len(scored) == len(ROWS)


def test_half_of_a_surrogate_pair_comes_back_as_it_was(score):
    line = json.dumps({**ROWS[2], "completion": "half \ud800, whole \U0001f642"})
    rows, _, error = score([line])
    assert error is None and rows[0]["completion"] == "half \ud800, whole \U0001f642"


def needs_source(completions, source, **kwargs):
    return [len(name) / 10 for name in source]


def test_a_reward_of_ones_own_gets_the_rows_other_columns(score):
    name = f"{__name__}:needs_source"
    lines = [json.dumps({**row, "source": row["id"] * 3}) for row in ROWS]
    rows, _, error = score(lines, "--rewards", name)
    assert error is None and [row["rewards"][name] for row in rows] == [0.3] * 3
    assert "needs source, which the file does not hold" in score([json.dumps(ROWS[0])], "--rewards", name)[2]


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
        (
            [json.dumps({**ROWS[0], "reference": {**REFERENCE, "edit_region": [{"bbox_2d": [0, 0, 1, "1"]}]}})],
            [],
            "reference.edit_region.0: bbox_2d must be four numbers in 0..1000",
        ),
        ([json.dumps({**ROWS[0], "reference": {**REFERENCE, "score": ["20", 10]}})], [], "two numbers in 0..25"),
        ([json.dumps(ROWS[0])], ["--score_range", "0", "10"], "reference.score: must be two numbers in 0..10"),
        ([], ["--score_range", "nan", "10"], "--score_range nan 10: LOW must be below HIGH"),
        ([], ["--rewards", "boxes"], "unknown reward 'boxes'; known: box_iou"),
        ([], ["--rewards", "box_iou,box_iou"], "named twice"),
        ([], ["--rewards", "judge"], "'judge': it needs model"),
        ([], ["--rewards", "trl:get_repetition_penalty_reward"], "needs completion_ids"),
        ([], ["--rewards", '[{"box_iou": {"powr": 2}}]'], "takes no powr"),
    ],
)
def test_bad_input_is_one_line(score, lines, options, message):
    _, _, error = score(lines, *options)
    assert error.startswith("error: ") and message in error and "\n" not in error
