"""Stages killed and interrupted for real, and resumed: the same final weights as an undisturbed run; finished work stays."""

import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import BASE, ROOT, quiet, run_stage, write_recipe

pytestmark = pytest.mark.slow

SMALL_SFT = {"max_steps": 6, "save_steps": 2, "per_device_train_batch_size": 4, "report_to": "none", "eval_steps": 6}
SMALL_GRPO = {
    "max_steps": 6,
    "save_steps": 2,
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "gradient_accumulation_steps": 1,
    "steps_per_generation": 2,
    "logging_steps": 1,
    "report_to": "none",
    # The untrained base earns nothing: without a spread of rewards every update would be zero.
    "reward_funcs": ["tests.stages.length_reward:length"],
    "reward_weights": [1.0],
    "model_name_or_path": str(BASE),
}


def stopped_after(command, checkpoint, how):
    """Starts `command`, sends it the signal `how` as soon as `checkpoint` is complete; its status, stdout and stderr."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=quiet(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whatever started the tests in the background may have left SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        for _ in range(1200):
            if (checkpoint / "verdict.json").exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        process.send_signal(how)
        stdout, stderr = process.communicate()
    assert checkpoint.exists(), stderr[-2000:]
    return process.returncode, stdout, stderr


def adapter(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter" / "adapter_model.safetensors")


def same_weights(a, b):
    import torch

    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def check_stage(stage, changes, folder, expected_in_output):
    """Runs `stage` whole, then killed, its newest checkpoint truncated, and resumed; compares the adapters."""
    recipes = {
        name: write_recipe(folder / f"{name}.yaml", stage, **changes, output_dir=str(folder / name))
        for name in ("undisturbed", "killed")
    }
    undisturbed = run_stage(stage, "--config", recipes["undisturbed"])
    assert undisturbed.returncode == 0, undisturbed.stderr[-3000:]
    command = [sys.executable, "-m", stage, "--config", str(recipes["killed"])]
    first = folder / "killed" / "checkpoint-2"
    assert stopped_after(command, first, signal.SIGKILL)[0] == -signal.SIGKILL
    # A newer checkpoint that was being written when the machine went down.
    newer = folder / "killed" / "checkpoint-5"
    newer.mkdir()
    for file in first.iterdir():
        if file.is_file():
            (newer / file.name).write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    status, stdout, stderr = stopped_after(command, folder / "killed" / "checkpoint-4", signal.SIGINT)
    assert "checkpoint-5 is incomplete" in stdout and f"going on from {first}" in stdout
    assert status == 130 and "interrupted; run the same command to continue" in stderr and "Traceback" not in stderr
    resumed = run_stage(stage, "--config", recipes["killed"])
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "going on from" in resumed.stdout
    weights = adapter(folder / "undisturbed")
    assert any(tensor.abs().sum() > 0 for name, tensor in weights.items() if "lora_B" in name)
    assert same_weights(weights, adapter(folder / "killed"))
    for name in expected_in_output:
        assert (folder / "killed" / name).exists()

    again = run_stage(stage, "--config", recipes["killed"])
    assert again.returncode == 0 and "nothing to do" in again.stdout
    other = run_stage(stage, "--config", recipes["killed"], "--learning_rate", "1e-5")
    assert other.returncode != 0 and "learning_rate" in other.stderr and "OVERWRITE=1" in other.stderr


def test_sft_killed_and_resumed_ends_with_the_same_weights(tmp_path, small_data):
    changes = {**SMALL_SFT, "model_name_or_path": str(BASE), "data_dir": str(small_data)}
    check_stage(
        "sft", changes, tmp_path, ["merged/verdict.json", "merged/model.safetensors", "merged/export_report.json"]
    )


def test_grpo_killed_and_resumed_ends_with_the_same_weights(tmp_path, small_data):
    base = tmp_path / "base"
    base.mkdir()
    for file in [*BASE.iterdir(), small_data / "verdict.json"]:
        (base / file.name).write_bytes(file.read_bytes())
    changes = {**SMALL_GRPO, "model_name_or_path": str(base), "data_dir": str(small_data)}
    check_stage("grpo", changes, tmp_path, ["samples", "trainer_state.json"])
