"""Which checkpoint a run goes on from, when the newest was cut off at any file."""

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.checkpoints import incomplete_file, last_checkpoint
from spatial_edit_reward import Spec
from spatial_edit_reward.errors import UserError

SPEC = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=320)


def write_checkpoint(folder, step):
    import torch
    from safetensors.torch import save_file

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
    assert last_checkpoint(tmp_path, 1) == new
    file = new / name
    if left is None and name in ("scheduler.pt", "rng_state.pth", "adapter_model.safetensors"):
        pytest.skip("the Trainer writes its state after these: a checkpoint that lacks one lacks the state too")
    if left is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: int(left * file.stat().st_size)])
        if name == "verdict.json" and left:
            assert file.read_text() == "{"
    assert incomplete_file(new) == (name if left is not None or name != "optimizer.pt" else "the optimizer's state")
    assert last_checkpoint(tmp_path, 1) == old
    out = capsys.readouterr().out
    assert not new.exists()
    if left is None and name == "optimizer.pt":  # no kill explains that: written first, as with save_only_model
        assert (tmp_path / "unreadable-checkpoint-10").is_dir() and "holds no state of the optimizer: kept as" in out
    else:
        assert "checkpoint-10 is incomplete (" in out and out.count("removed") == 1


class BrokenDisk:
    """Lets files be opened, but not read, that are named here."""

    def __init__(self, monkeypatch, *files):
        self.files, self.open = {str(file) for file in files}, Path.open
        monkeypatch.setattr(Path, "open", lambda path, *args, **options: self.opened(path, *args, **options))
        monkeypatch.setattr(Path, "read_text", lambda path, *args: self.opened(path).read())

    def opened(self, path, *args, **options):
        if str(path) in self.files:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return self.open(path, *args, **options)


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_that_cannot_be_read_is_set_aside_and_kept(tmp_path, name, monkeypatch, capsys):
    old, new = write_checkpoint(tmp_path, 9), write_checkpoint(tmp_path, 12)
    with monkeypatch.context() as disk:
        BrokenDisk(disk, new / name)
        assert last_checkpoint(tmp_path, 1) == old
    aside = tmp_path / "unreadable-checkpoint-12"
    assert aside not in tmp_path.glob("checkpoint-*")  # which the Trainer would remove in time (save_total_limit)
    assert not new.exists() and incomplete_file(aside) is None
    (line, _) = capsys.readouterr().out.splitlines()
    assert "checkpoint-12 cannot be read" in line and "Input/output error" in line and aside.name in line
    # the disk is well again: once renamed back, it is gone on from; and a second failure does not overwrite the first
    again = write_checkpoint(tmp_path, 12)
    with monkeypatch.context() as disk:
        BrokenDisk(disk, again / name)
        assert last_checkpoint(tmp_path, 1) == old
    assert incomplete_file(tmp_path / "unreadable-checkpoint-12-1") is None
    aside.rename(new)
    assert last_checkpoint(tmp_path, 1) == new


def test_no_checkpoint(tmp_path):
    assert last_checkpoint(tmp_path, 1) is None


@pytest.mark.parametrize("name", ["optimizer.bin", "optimizer_0", "global_step9"])
def test_a_checkpoint_of_an_engine_is_complete(tmp_path, name):
    checkpoint = write_checkpoint(tmp_path, 9)
    (checkpoint / "optimizer.pt").unlink()
    assert incomplete_file(checkpoint) == "the optimizer's state"
    import torch

    if name.endswith(".bin"):
        torch.save({"state": torch.zeros(64)}, checkpoint / name)
    else:
        (checkpoint / name).mkdir()
    assert incomplete_file(checkpoint) is None


def test_a_run_goes_on_only_with_as_many_processes(tmp_path):
    checkpoint = write_checkpoint(tmp_path, 9)
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    import torch

    torch.save({}, checkpoint / "rng_state_1.pth")
    assert last_checkpoint(tmp_path, 2) == checkpoint
    with pytest.raises(UserError, match=r"checkpoint-9 was written by 2 processes, this run has 4.*OVERWRITE=1"):
        last_checkpoint(tmp_path, 4)
    assert checkpoint.exists()


def trainer_that_saves(tensors, tied=False):
    """What `save_trained` needs of a trainer, with a model of 20 trained parameters, which saves `tensors` by shape."""
    import torch
    from safetensors.torch import save_file

    model = torch.nn.Linear(3, 5)
    model.config = SimpleNamespace(tie_word_embeddings=tied)

    def save_model(folder):
        Path(folder).mkdir(parents=True)
        save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, Path(folder) / "model.safetensors")

    accelerator = SimpleNamespace(unwrap_model=lambda model: model)
    return SimpleNamespace(
        model=model, accelerator=accelerator, save_model=save_model, is_world_process_zero=lambda: True
    )


def test_weights_that_were_not_gathered_are_refused(tmp_path):
    from pipeline.model import save_trained

    shapes = {"weight": (5, 3), "bias": (5,)}
    folder = save_trained(trainer_that_saves(shapes), tmp_path / "a", SPEC)
    assert folder == tmp_path / "a" / "weights" and (folder / "verdict.json").exists()
    with pytest.raises(UserError, match="15 parameters were saved of 20: the engine must gather"):
        save_trained(trainer_that_saves({"weight": shapes["weight"]}), tmp_path / "b", SPEC)
    with pytest.raises(UserError, match="bias is empty"):
        save_trained(trainer_that_saves({**shapes, "bias": (0,)}), tmp_path / "c", SPEC)


def test_an_output_layer_that_is_tied_to_the_embeddings_counts_once(tmp_path):
    """Some engines write both: 20 parameters of the model, and 15 once more."""
    from pipeline.model import save_trained

    stored = {"weight": (5, 3), "bias": (5,), "lm_head.weight": (5, 3)}
    folder = save_trained(trainer_that_saves(stored, tied=True), tmp_path / "tied", SPEC)
    assert (folder / "verdict.json").exists()
    with pytest.raises(UserError, match="35 parameters were saved of 20"):
        save_trained(trainer_that_saves(stored, tied=False), tmp_path / "untied", SPEC)


@pytest.mark.parametrize("name", ["optimizer.pt", "adapter_model.safetensors"])
def test_a_damaged_checkpoint_is_kept_under_another_name(tmp_path, name, capsys):
    old, new = write_checkpoint(tmp_path, 9), write_checkpoint(tmp_path, 10)
    content = bytearray((new / name).read_bytes())
    if name.endswith(".safetensors"):
        content[8:] = b"[]".ljust(len(content) - 8)  # of the same length, no header of tensors
    else:
        content[content.index(b"data/0") + 90] ^= 1  # a bit of the tensor's bytes
    (new / name).write_bytes(content)
    assert last_checkpoint(tmp_path, 1) == old
    assert (tmp_path / "unreadable-checkpoint-10" / name).read_bytes() == bytes(content)
    assert "cannot be read" in capsys.readouterr().out
