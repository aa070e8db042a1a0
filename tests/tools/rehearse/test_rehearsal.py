"""The 8B's recipe from its public data to a served model, on images as small as a patch allows."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT, quiet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """(what was printed, rehearsal.json)."""
    folder = tmp_path_factory.mktemp("lab") / "rehearsal"
    command = [
        sys.executable,
        "-m",
        "tools.rehearse",
        "recipes/spatialreward-8b",
        "--folder",
        str(folder),
        "--side",
        "64",
    ]
    done = subprocess.run(command, cwd=ROOT, env=quiet(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    again = subprocess.run(command, cwd=ROOT, env=quiet(), capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "serve" in again.stdout and "== " not in again.stdout  # the table, and no work
    return done.stdout, json.loads((folder / "rehearsal.json").read_text())


def test_every_stage_ran_in_order(rehearsal):
    printed, report = rehearsal
    names = ["public shapes", "data", "base", "plan", "sft", "mine", "grpo", "grpo-paper", "merge", "eval", "report"]
    names += ["benchmark shapes", "benchmarks", "push", "serve"]
    assert [stage["stage"] for stage in report["stages"]] == names
    assert all(stage["seconds"] > 0 and stage["peak_bytes"] > 2**24 for stage in report["stages"])
    assert "use_vllm: False" in printed and "rewards applied" in printed


def test_rows_and_rewards_are_counted(rehearsal):
    stages = {stage["stage"]: stage for stage in rehearsal[1]["stages"]}
    assert stages["data"]["rows_in"] > stages["data"]["rows_out"] > 100
    assert stages["mine"]["rows_in"] > stages["mine"]["rows_out"] > 0
    assert stages["sft"]["rows_out"] == 8 and stages["grpo"]["rows_out"] == 16
    assert set(stages["grpo"]["rewards_applied"]) == {"box_iou", "score_agreement", "format"}
    assert stages["grpo"]["rewards_applied"]["format"] == [2, 2]
    assert stages["grpo-paper"]["rewards_applied"] == {"judge": [2, 2]}
    assert stages["eval"]["rows_out"] == 4 * stages["eval"]["rows_in"]
    assert stages["benchmarks"]["rows_in"] > 0


def test_the_plan_counts_the_tokens_that_were_trained_on(rehearsal):
    measured, planned = rehearsal[1]["plan"]["sft"]["tokens_of_a_row"]
    assert planned == pytest.approx(measured, rel=0.25)  # eight rows beside the mean of all
