"""Stage 1's loss counts every completion token alike, however the batch is split."""

import json

import pytest

from tests.conftest import BASE, run_stage, write_recipe

pytestmark = pytest.mark.slow


def first_loss(folder, small_data, rows, steps):
    """The loss of the first update over the same four rows, `rows` at a time."""
    changes = {
        "model_name_or_path": str(BASE),
        "data_dir": str(small_data),
        "output_dir": str(folder / f"{rows}x{steps}"),
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": steps,
        "max_steps": 1,
        "logging_steps": 1,
        "eval_strategy": "no",
        "report_to": "none",
    }
    done = run_stage("sft", "--config", write_recipe(folder / f"{rows}x{steps}.yaml", "sft", **changes))
    assert done.returncode == 0, done.stderr[-2000:]
    history = json.loads((folder / f"{rows}x{steps}" / "trainer_state.json").read_text())["log_history"]
    return next(entry["loss"] for entry in history if "loss" in entry)


def test_accumulation_does_not_change_the_loss(tmp_path, small_data):
    assert first_loss(tmp_path, small_data, 4, 1) == pytest.approx(first_loss(tmp_path, small_data, 2, 2), abs=1e-4)
