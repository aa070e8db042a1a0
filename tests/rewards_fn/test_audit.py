"""The audit on synthetic rows: the recipe's rewards hold, softer ones are caught."""

import json
import subprocess
import sys

import numpy as np
import pytest

from data.synthetic.generate import group_rows
from rewards_fn import RULES, box_iou, format, score_agreement
from rewards_fn.audit import audited_rewards, play
from rewards_fn.policies import PADDING, completion, honest, truth
from tests.conftest import ROOT, write_recipe

ROWS = [
    {"task": row["task"], "reference": row["reference"]} for number in range(60) for row in group_rows(3, number, 64)
]
TINY = ROOT / "recipes" / "tiny" / "grpo.yaml"


def test_the_tiny_recipe_does_not_pay_for_gaming():
    found = play(ROWS, *audited_rewards(TINY), seed=0)
    assert [one.name for one in found if one.earns_too_much] == []
    assert found[0].mean == 1.0
    assert sum(one.kind == "blind" for one in found) == 17
    assert sum(one.kind == "padding" for one in found) == 16


def test_a_reward_that_looks_at_nothing_is_caught():
    def kind(completions, **kwargs):
        return [0.9 if "{" in text else 0.0 for text in completions]

    found = play(ROWS, {"kind": kind}, [1.0], seed=0)
    assert all(one.earns_too_much for one in found if one.kind == "blind")


def test_a_weight_that_lets_bare_cites_pay_is_caught():
    caught = {one.name for one in play(ROWS, dict(RULES), [2.0, 1.0, 0.2], seed=0) if one.earns_too_much}
    assert "cites with nothing between, 0% noise" in caught


def test_policies_spoil_what_they_say_they_spoil():
    rng = np.random.default_rng(0)
    row = next(row for row in ROWS if row["reference"]["edit_region"])
    answer = truth(row["task"], row["reference"])

    def earned(text):
        columns = {"completions": [text], "reference": [row["reference"]], "task": [row["task"]]}
        return [reward(**columns)[0] for reward in (box_iou, score_agreement, format)]

    assert earned(completion(answer)) == [1.0, 1.0, 1.0]
    boxes, scores, form = earned(PADDING["each box three times"](answer, rng))
    assert boxes == pytest.approx(1 / 3) and (scores, form) == (1.0, 1.0)
    for name in ("empty reasoning", "cites with nothing between"):
        boxes, scores, form = earned(PADDING[name](answer, rng))
        assert (boxes, scores) == (1.0, 1.0) and form <= 0.6
    assert earned(PADDING["prose around the JSON"](answer, rng)) == [0.0, 0.0, 0.0]
    noisy = honest(answer, 0.2, rng)
    assert 0 < earned(completion(noisy))[0] < 1


def audit(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "rewards_fn", "audit", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT
    )


def test_the_command_prints_every_policy_and_fails_where_one_pays(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    good = audit(file, "--config", TINY)
    assert good.returncode == 0, good.stderr
    assert "honest: 20% noise" in good.stdout and "blind: another" in good.stdout
    soft = write_recipe(tmp_path / "soft.yaml", "grpo", reward_weights=[0.0, 0.1, 1.0])
    bad = audit(file, "--config", soft)
    assert bad.returncode == 1
    assert "policies earn too much" in bad.stderr


def test_bad_input_is_one_line(tmp_path):
    (tmp_path / "no.parquet").write_text("no")
    (tmp_path / "no.jsonl").write_text('{"task": "sc"}')
    for file, message in (
        ("none.parquet", "no such file"),
        ("no.parquet", "canonical rows"),
        ("no.jsonl", "reference"),
    ):
        done = audit(tmp_path / file)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
