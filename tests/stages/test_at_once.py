"""The same stage started twice, for real: the second names the process at work, and nothing of the first is lost."""

import json
import subprocess
import sys
import time

import pytest

from tests.conftest import BASE, ROOT, quiet, run_stage, write_recipe

pytestmark = pytest.mark.slow


def started(*arguments):
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=quiet(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def one_of_two(first, second, output):
    """Waits for both; asserts that one finished and that the other one ended with a line that names it."""
    try:
        ends = [(process, *process.communicate(timeout=900)) for process in (first, second)]
    finally:
        for process in (first, second):
            process.kill()
    finished, refused = sorted(ends, key=lambda end: end[0].returncode)
    assert finished[0].returncode == 0, finished[2][-3000:]
    assert refused[0].returncode == 1 and "Traceback" not in refused[2], refused[2][-3000:]
    last = refused[2].strip().splitlines()[-1]
    assert last.startswith(f"error: {output} is being written by process {finished[0].pid} on "), last
    assert json.loads((output / "fingerprint.json").read_text())["finished"]
    assert not list(output.parent.glob(f".{output.name}*")) and not list(output.parent.glob(f"{output.name}.*"))


def test_two_data_stages_at_once(tmp_path):
    changes = {"output_dir": str(tmp_path / "data"), "processes": 1, "max_new_tokens": 24}
    recipe = write_recipe(tmp_path / "recipe.yaml", "data", **changes)
    one_of_two(*(started("data", "--config", recipe) for _ in range(2)), tmp_path / "data")
    assert {"train.parquet", "heldout.parquet", "verdict.json"} <= {path.name for path in (tmp_path / "data").iterdir()}


def test_two_stages_of_training_at_once(tmp_path, small_data):
    changes = {
        "max_steps": 16,
        "save_steps": 8,
        "per_device_train_batch_size": 8,
        "report_to": "none",
        "eval_strategy": "no",
    }
    paths = {"model_name_or_path": str(BASE), "data_dir": str(small_data), "output_dir": str(tmp_path / "sft")}
    recipe = write_recipe(tmp_path / "recipe.yaml", "sft", **changes, **paths)
    first = started("sft", "--config", recipe)
    time.sleep(4)
    one_of_two(first, started("sft", "--config", recipe), tmp_path / "sft")
    assert (tmp_path / "sft" / "merged" / "model.safetensors").exists()
    again = run_stage("sft", "--config", recipe)
    assert again.returncode == 0 and "nothing to do" in again.stdout
    # what is gone is made again, from the last checkpoint
    before = (tmp_path / "sft" / "merged" / "model.safetensors").read_bytes()
    (tmp_path / "sft" / "merged").rename(tmp_path / "elsewhere")
    again = run_stage("sft", "--config", recipe)
    assert again.returncode == 0 and "merged is gone" in again.stdout and "going on from" in again.stdout
    assert (tmp_path / "sft" / "merged" / "model.safetensors").read_bytes() == before
