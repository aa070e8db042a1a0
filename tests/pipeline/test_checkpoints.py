"""Which checkpoint a run goes on from, when the newest was cut off at any file."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from pipeline.checkpoints import is_whole, last_whole_checkpoint, save_trained
from spatial_edit_reward.errors import UserError
from tools.tiny_base.model import SPEC


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


@pytest.mark.parametrize("name", ["optimizer.bin", "optimizer_0", "global_step9"])
def test_a_checkpoint_of_an_engine_is_whole(tmp_path, name):
    checkpoint = write_checkpoint(tmp_path, 9)
    (checkpoint / "optimizer.pt").unlink()
    assert not is_whole(checkpoint)
    if name.endswith(".bin"):
        torch.save({"state": torch.zeros(64)}, checkpoint / name)
    else:
        (checkpoint / name).mkdir()
    assert is_whole(checkpoint)


def test_a_run_goes_on_only_with_as_many_processes(tmp_path):
    checkpoint = write_checkpoint(tmp_path, 9)
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    torch.save({}, checkpoint / "rng_state_1.pth")
    assert last_whole_checkpoint(tmp_path, 2) == checkpoint
    with pytest.raises(UserError, match=r"checkpoint-9 was written by 2 processes, this run has 4.*OVERWRITE=1"):
        last_whole_checkpoint(tmp_path, 4)
    assert checkpoint.exists()


def trainer_that_saves(tensors):
    """What `save_trained` needs of a trainer, with a model of 20 trained parameters, which saves `tensors`."""
    model = torch.nn.Linear(3, 5)
    model.config = SimpleNamespace(tie_word_embeddings=False)

    def save_model(folder):
        Path(folder).mkdir(parents=True)
        save_file(tensors, Path(folder) / "model.safetensors")

    accelerator = SimpleNamespace(unwrap_model=lambda model: model)
    return SimpleNamespace(
        model=model, accelerator=accelerator, save_model=save_model, is_world_process_zero=lambda: True
    )


def test_weights_that_were_not_gathered_are_refused(tmp_path):
    whole = {"weight": torch.zeros(5, 3), "bias": torch.zeros(5)}
    folder = save_trained(trainer_that_saves(whole), tmp_path / "a", SPEC)
    assert folder == tmp_path / "a" / "weights" and (folder / "verdict.json").exists()
    with pytest.raises(UserError, match="15 parameters were saved of 20: the engine must gather"):
        save_trained(trainer_that_saves({"weight": whole["weight"]}), tmp_path / "b", SPEC)
    with pytest.raises(UserError, match="bias is empty"):
        save_trained(trainer_that_saves({**whole, "bias": torch.zeros(0)}), tmp_path / "c", SPEC)
