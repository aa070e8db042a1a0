"""Which checkpoint a run goes on from, when the newest was cut off at any file."""

import json

import pytest
import torch
from safetensors.torch import save_file

from training.checkpoints import is_whole, last_whole_checkpoint


def write_checkpoint(folder, step):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    save_file({"w": torch.zeros(64)}, checkpoint / "adapter_model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.zeros(64)}, checkpoint / name)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    (checkpoint / "verdict.json").write_text("{}")
    return checkpoint


FILES = [
    "adapter_model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "verdict.json",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("left", [0, 0.5, None])
def test_a_checkpoint_cut_off_at_any_file_is_passed_over(tmp_path, name, left, capsys):
    old, new = write_checkpoint(tmp_path, 9), write_checkpoint(tmp_path, 10)
    assert last_whole_checkpoint(tmp_path, 1) == new
    file = new / name
    if left is None and name in ("scheduler.pt", "rng_state.pth", "adapter_model.safetensors"):
        pytest.skip("the Trainer writes its state after these: a checkpoint that lacks one lacks the state too")
    if left is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: int(left * file.stat().st_size)])
        if name == "verdict.json" and left:
            assert file.read_text() == "{"
    assert not is_whole(new)
    assert last_whole_checkpoint(tmp_path, 1) == old
    assert not new.exists() and "checkpoint-10 is not whole" in capsys.readouterr().out


def test_no_checkpoint(tmp_path):
    assert last_whole_checkpoint(tmp_path, 1) is None
