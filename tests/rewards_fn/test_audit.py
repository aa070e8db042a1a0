"""The audit on synthetic rows: the recipe's rewards hold, softer ones are caught."""

import json
import sys

import numpy as np
import pytest

from rewards_fn import box_iou, format, score_agreement
from rewards_fn.__main__ import main
from rewards_fn.audit import play, read_recipe, read_references
from rewards_fn.load import Selected, select_rewards
from rewards_fn.policies import PADDING, ground_truth, noisy_oracle
from spatial_edit_reward import UserError, render
from spatial_edit_reward.parser import completion_text
from tests.conftest import ROOT, run_stage, write_recipe

TINY = ROOT / "recipes" / "tiny" / "grpo.yaml"


@pytest.fixture(scope="module")
def rows():
    from data.synthetic.generate import group_rows

    return [{"task": row["task"], "reference": row["reference"]} for i in range(60) for row in group_rows(3, i, 64)]


@pytest.fixture
def file(rows, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_the_tiny_recipe_does_not_pay_for_gaming(rows):
    results = play(rows, read_recipe(TINY), seed=0)
    assert [result.name for result in results if result.earns_too_much] == []
    assert results[0].mean == 1.0
    assert sum(result.kind == "blind" for result in results) == 17
    assert sum(result.kind == "padding" for result in results) == 16


def test_a_reward_that_sees_no_image_is_caught(rows):
    def kind(completions, **kwargs):
        return [0.9 if "{" in completion_text(completion) else 0.0 for completion in completions]

    results = play(rows, Selected([], [kind], [1.0], {}), seed=0)
    assert all(result.earns_too_much for result in results if result.kind == "blind")


def test_a_weight_that_lets_bare_cites_pay_is_caught(rows):
    results = play(rows, select_rewards(["box_iou", "score_agreement", "format"], [2.0, 1.0, 0.2]), seed=0)
    assert "cites with nothing between, 0% noise" in {result.name for result in results if result.earns_too_much}


def test_policies_worsen_what_they_say_they_worsen(rows):
    rng = np.random.default_rng(0)
    row = next(row for row in rows if row["reference"]["edit_region"])
    draft = ground_truth(row["task"], row["reference"])

    def earned(text):
        columns = {"completions": [text], "reference": [row["reference"]], "task": [row["task"]]}
        return [reward(**columns)[0] for reward in (box_iou, score_agreement, format)]

    assert earned(render("sc", draft)) == [1.0, 1.0, 1.0]
    boxes, scores, form = earned(PADDING["each box three times"](row["task"], draft, rng))
    assert boxes == pytest.approx(1 / 3) and (scores, form) == (1.0, 1.0)
    for name in ("empty reasoning", "cites with nothing between"):
        boxes, scores, form = earned(PADDING[name](row["task"], draft, rng))
        assert (boxes, scores) == (1.0, 1.0) and form <= 0.6
    assert earned(PADDING["prose around the JSON"](row["task"], draft, rng)) == [0.0, 0.0, 0.0]
    noisy = noisy_oracle(draft, 0.2, (0, 25), rng)
    assert 0 < earned(render("sc", noisy))[0] < 1


def audit(monkeypatch, *arguments):
    """The exit status of the command, in this process: None, a message or a number."""
    monkeypatch.setattr(sys, "argv", ["rewards_fn", "audit", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return end.code


def test_the_command_prints_every_policy_and_fails_where_one_pays(file, tmp_path, monkeypatch, capsys):
    done = run_stage("rewards_fn", "audit", file, "--config", TINY)
    assert done.returncode == 0, done.stderr
    assert "noisy oracle: 20% noise" in done.stdout and "blind: another" in done.stdout
    soft = write_recipe(tmp_path / "soft.yaml", "grpo", reward_weights=[0.0, 0.1, 1.0])
    assert "policies earn too much" in audit(monkeypatch, file, "--config", soft)
    assert " ! " in capsys.readouterr().out


def test_rewards_and_weights_can_be_given_without_a_recipe(file, monkeypatch, capsys):
    assert audit(monkeypatch, file, "--config", TINY) is None
    by_recipe = capsys.readouterr().out
    recipe = '[{"box_iou": {}}, "score_agreement", "format"]'
    assert audit(monkeypatch, file, "--rewards", recipe, "--weights", 2, 1, 1) is None
    assert capsys.readouterr().out == by_recipe


def test_a_reward_that_needs_more_is_left_out_with_a_word(file, tmp_path, monkeypatch, capsys):
    funcs = ["box_iou", "score_agreement", "format", "trl:get_repetition_penalty_reward"]
    recipe = write_recipe(tmp_path / "four.yaml", "grpo", reward_funcs=funcs, reward_weights=[2, 1, 1, 1])
    assert audit(monkeypatch, file, "--config", recipe) is None
    errors = capsys.readouterr().err
    assert (
        "box_iou x 2, score_agreement x 1, format x 1; left out: repetition_penalty_reward (needs completion_ids)"
        in errors
    )


def test_bad_input_is_one_line(file, tmp_path, monkeypatch):
    (tmp_path / "no.parquet").write_text("no")
    (tmp_path / "no.jsonl").write_text('{"task": "sc"}')
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "range.jsonl").write_text('{"task": "pq", "reference": {"edit_region": null, "score": [26, 1]}}')
    for name, options, message in (
        ("none.parquet", [], "no such file"),
        ("no.parquet", [], "canonical rows"),
        ("no.jsonl", [], "reference"),
        ("empty.jsonl", [], "no row with task sc or pq"),
        ("range.jsonl", [], "two numbers in 0..25"),
        (file, ["--rewards", "format", "--weights", "1", "2"], "reward_weights: 2 for 1 reward_funcs"),
        (file, ["--rewards", "boxes"], "unknown reward 'boxes'; known: box_iou"),
        (file, ["--rewards", "trl:get_soft_overlong_punishment"], "missing 2 required"),
        (file, ["--rewards", "trl:get_repetition_penalty_reward"], "needs completion_ids"),
        (file, ["--score_range", "25", "0"], "--score_range 25 0: LOW must be below HIGH"),
    ):
        error = audit(monkeypatch, tmp_path / name, *options)
        assert error.startswith("error: ") and message in error and "\n" not in error


def test_json_lines_are_split_at_line_feeds_alone(tmp_path):
    reference = {"edit_region": None, "score": [1, 2], "reasoning": "one\u2028two\u2029three\u0085four"}
    lines = [json.dumps({"task": "pq", "reference": reference}, ensure_ascii=False)] * 3
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    assert len(read_references(tmp_path / "rows.jsonl", 10, np.random.default_rng(0))) == 3


def test_without_pyarrow_a_parquet_file_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "rows.parquet").write_text("")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"spatial-edit-reward\[parquet\]"):
        read_references(tmp_path / "rows.parquet", 10, np.random.default_rng(0))
