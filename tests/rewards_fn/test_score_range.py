"""A score range other than 0..25, from the spec or the row, reaches everything that rewards or measures."""

import json
import sys

from PIL import Image

from rewards_fn import format, load_rewards, score_agreement
from rewards_fn.__main__ import main
from rewards_fn.judge_prompt import messages_for
from rewards_fn.policies import NOISE, policies
from spatial_edit_reward import Spec, aggregate, failed_checks, parse, save_spec

TEN = (0.0, 10.0)
SPEC = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=320, score_range=TEN)
REFERENCE = {"edit_region": None, "score": [10, 10], "reasoning": "No visible artifacts."}


def verdict(*score):
    return json.dumps({"reasoning": "No visible artifacts.", "score": score})


def earned(entries, completions, **columns):
    rows = len(completions)
    columns = {"reference": [REFERENCE] * rows, "task": ["pq"] * rows, **columns}
    return [reward(completions=completions, **columns) for reward in load_rewards(entries, TEN)]


def test_rewards_take_the_range_of_the_spec():
    completions = [verdict(20, 20), verdict(0, 0), verdict(10, 5), verdict(10, 10)]
    agreement, form = earned(["score_agreement", "format"], completions)
    assert agreement == [0.0, 0.0, 0.75, 1.0]
    assert form == [0.7, 1.0, 1.0, 1.0]
    assert failed_checks(parse(completions[0], "pq"), TEN) == ["two_scores_in_range"]
    # an entry's own range is kept
    assert earned([{"score_agreement": {"score_range": [0, 20]}}], completions) == [[0.5, 0.5, 0.875, 1.0]]


def test_rewards_take_the_range_of_each_row():
    """As TRL hands over a column of the dataset."""
    columns = {"reference": [REFERENCE] * 2, "task": ["pq"] * 2, "score_range": [[0, 10], [0, 25]]}
    assert score_agreement([verdict(20, 20)] * 2, **columns) == [0.0, 0.6]
    assert format([verdict(20, 20)] * 2, **columns) == [0.7, 1.0]
    assert earned(["format"], [verdict(20, 20)] * 2, score_range=[[0, 10], [0, 25]]) == [[0.7, 1.0]]


def test_the_judge_is_told_the_range():
    text = verdict(1, 2)
    (message,) = messages_for([Image.new("RGB", (8, 8))], "", "pq", parse(text, "pq"), text, TEN)
    assert "0 (worst) to 10 (best)" in message["content"][-1]["text"]


def test_metrics_and_the_aggregate_take_the_range_of_the_spec():
    from evaluation.metrics import group_sums, score_rows

    rows = [
        {"id": f"a-{task}", "task": task, "group": "a", "instruction": "x", "reference": REFERENCE}
        for task in ("sc", "pq")
    ]
    completions = [verdict(20, 20), verdict(5, 10)]
    rewards = load_rewards(["box_iou", "score_agreement", "format"], TEN)
    scored = score_rows(rows[1:] * 2, completions, rewards, [1.0] * 3, SPEC)
    assert [row["scores"] for row in scored] == [None, (5.0, 10.0)]
    assert [row["score_agreement"] for row in scored] == [0.0, 0.75]
    sums = group_sums(rows[1:] * 2, scored, [False, False], SPEC)
    assert sums["valid"].mean == 0.5 and sums["score_mae"].mean == 2.5
    assert aggregate([10, 10], [10, 10], SPEC) == 1.0 and aggregate([0, 0], [10, 10], SPEC) == 0.0


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["rewards_fn", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return end.code


def test_the_commands_take_the_range(tmp_path, monkeypatch, capsys):
    rows = [
        {"task": "pq", "completion": verdict(20, 20), "reference": {**REFERENCE, "score": [i % 11, 3]}}
        for i in range(22)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert command(monkeypatch, "score", file, "--score_range", 0, 10) is None
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert row["why"] == "two_scores_in_range" and row["rewards"]["score_agreement"] == 0.0
    command(monkeypatch, "audit", file, "--score_range", 0, 10)
    by_option = capsys.readouterr().out
    save_spec(SPEC, tmp_path)  # as `make data` leaves it beside the rows
    command(monkeypatch, "audit", file)
    assert capsys.readouterr().out == by_option
    oracle = next(line for line in by_option.splitlines() if line.startswith("noisy oracle: 0% noise"))
    assert oracle.split()[4] == "1.000"


def test_policies_stay_within_the_range():
    rows = [{"task": "pq", "reference": {**REFERENCE, "score": [i, 10 - i]}} for i in range(11)]
    for policy in policies(rows, TEN, seed=0):
        for completion in policy.completions:
            if policy.name.startswith("prose"):
                continue
            assert failed_checks(parse(completion, "pq"), TEN) in ([], ["reasoning_not_empty"])
    highest = next(policy for policy in policies(rows, TEN, 0) if "highest" in policy.name)
    assert parse(highest.completions[0], "pq").score == [10, 10] and max(NOISE) == 0.4
