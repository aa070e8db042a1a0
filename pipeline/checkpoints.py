"""Which checkpoint a killed run goes on from: the last one that is whole."""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from pathlib import Path
from typing import Any

from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline.distributed import parameters
from spatial_edit_reward import Spec, save_spec
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.spec import FILE_NAME

# The optimizer's state: of one process or DDP, of FSDP whole and in pieces, of DeepSpeed.
OPTIMIZER = ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*")


class SpecBesideCheckpoints(TrainerCallback):
    """Writes `verdict.json` into every checkpoint, as its last file: every process has written its own by then."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            save_spec(self.spec, Path(args.output_dir) / f"checkpoint-{state.global_step}")


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of a Trainer checkpoint can be opened to its end.

    The Trainer writes `checkpoint-N` in place, its state last; `verdict.json` follows (SpecBesideCheckpoints).
    """
    try:
        json.loads((checkpoint / FILE_NAME).read_text())
        json.loads((checkpoint / "trainer_state.json").read_text())
        for file in checkpoint.rglob("*.safetensors"):
            with safe_open(file, framework="numpy") as opened:
                opened.keys()
        for pattern in ("*.pt", "*.pth", "*.bin"):
            for file in checkpoint.rglob(pattern):
                # torch.save writes zip archives, whose directory stands at the end of the file
                if zipfile.ZipFile(file).testzip() is not None:
                    return False
    except (OSError, ValueError, SafetensorError, zipfile.BadZipFile):
        return False
    return any(any(checkpoint.glob(pattern)) for pattern in OPTIMIZER)


def written_by(checkpoint: Path) -> int:
    """How many processes wrote the checkpoint: each leaves the state of its random numbers."""
    return len(list(checkpoint.glob("rng_state*.pth")))


def last_whole_checkpoint(folder: Path, processes: int) -> Path | None:
    """The newest whole `checkpoint-N` in `folder`, or None; broken newer ones are removed, each with a line that says so.

    Raises UserError for one that another number of `processes` wrote: the global batch would be another.
    """
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for checkpoint in sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True):
        if is_whole(checkpoint):
            if written_by(checkpoint) != processes:
                raise UserError(
                    f"{checkpoint} was written by {written_by(checkpoint)} processes, this run has {processes}: start as "
                    "many, or start over with OVERWRITE=1"
                )
            print(f"going on from {checkpoint}")
            return checkpoint
        print(f"{checkpoint} is not whole (the run was stopped while writing it): removed")
        shutil.rmtree(checkpoint)
    return None


def stored_parameters(folder: Path, leave_out: str | None = None) -> int:
    """How many numbers the safetensors files in `folder` hold, without the tensor `leave_out`.

    Raises UserError for an empty tensor.
    """
    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                elements = math.prod(opened.get_slice(name).get_shape())
                if not elements:
                    raise UserError(f"{file}: {name} is empty: the engine did not gather it")
                count += elements * (name != leave_out)
    return count


def save_trained(trainer: Any, output: Path, spec: Spec) -> Path:
    """The folder with the trainer's gathered adapter (`adapter/`) or, without one, all its weights (`weights/`).

    Every process calls it, the main one writes. Raises UserError where the files do not hold every parameter: an engine that
    divides the weights among processes can leave most of them out.
    """
    adapted = hasattr(trainer.accelerator.unwrap_model(trainer.model), "peft_config")
    folder = output / ("adapter" if adapted else "weights")
    expected = parameters(trainer.model, trained=adapted)
    trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        tied = trainer.accelerator.unwrap_model(trainer.model).config.tie_word_embeddings
        stored = stored_parameters(
            folder, "lm_head.weight" if tied else None
        )  # some engines write the embeddings twice
        if stored != expected:
            raise UserError(
                f"{folder}: {stored:,} parameters were saved of {expected:,}: the engine must gather weights when saving "
                "(stage3_gather_16bit_weights_on_model_save, fsdp_state_dict_type FULL_STATE_DICT)"
            )
        save_spec(spec, folder)
    return folder
