"""Which checkpoint a killed run goes on from: the last complete one."""

from __future__ import annotations

import itertools
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
from spatial_edit_reward.errors import UserError, one_line
from spatial_edit_reward.spec import FILE_NAME

WEIGHTS = ("*.safetensors", "*.pt", "*.pth", "*.bin")
# The optimizer's state: of one process or DDP, of FSDP in one file and in pieces, of DeepSpeed.
OPTIMIZER = ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*")


class SpecBesideCheckpoints(TrainerCallback):
    """Writes `verdict.json` into every checkpoint, as its last file: every process has written its own by then."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            save_spec(self.spec, Path(args.output_dir) / f"checkpoint-{state.global_step}")


def incomplete_file(checkpoint: Path) -> str | None:
    """The file that a Trainer checkpoint lacks or that was cut off in it; None where every file reads to its end.

    The Trainer writes `checkpoint-N` in place, its state last; `verdict.json` follows (SpecBesideCheckpoints). Raises OSError
    where a file is there and cannot be read: nothing is known of the checkpoint then.
    """
    for name in ("trainer_state.json", FILE_NAME):
        try:
            json.loads((checkpoint / name).read_text())
        except (FileNotFoundError, ValueError):
            return name
    for file in sorted(file for pattern in WEIGHTS for file in checkpoint.rglob(pattern)):
        with file.open("rb") as opened:
            opened.read(1)  # an error of the disk is an OSError here, and whatever follows is about the content
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, framework="numpy") as tensors:
                    tensors.keys()
            # torch.save writes zip archives, whose directory stands at the end of the file
            elif zipfile.ZipFile(file).testzip() is not None:
                return file.name
        except (ValueError, SafetensorError, zipfile.BadZipFile):
            return file.name
    return None if any(any(checkpoint.glob(pattern)) for pattern in OPTIMIZER) else "the optimizer's state"


def written_by(checkpoint: Path) -> int:
    """How many processes wrote the checkpoint: each leaves the state of its random numbers."""
    return len(list(checkpoint.glob("rng_state*.pth")))


def last_checkpoint(folder: Path, processes: int) -> Path | None:
    """The newest complete `checkpoint-N` in `folder`, or None.

    A newer one that was cut off is removed, one that cannot be read is renamed to `checkpoint-N.unreadable`, each with a line
    that says so. Raises UserError for a checkpoint that another number of `processes` wrote: the global batch would be another.
    """
    steps = {int(path.name.removeprefix("checkpoint-")): path for path in folder.glob("checkpoint-*[0-9]")}
    for _, checkpoint in sorted(steps.items(), reverse=True):
        try:
            incomplete = incomplete_file(checkpoint)
        except OSError as error:
            aside = checkpoint.rename(_free_name(checkpoint, "unreadable"))
            print(f"{checkpoint} cannot be read ({one_line(error)}): kept as {aside.name}, not used")
            continue
        if incomplete:
            print(f"{checkpoint} is incomplete ({incomplete}; the run was stopped while writing it): removed")
            shutil.rmtree(checkpoint)
            continue
        if written_by(checkpoint) != processes:
            raise UserError(
                f"{checkpoint} was written by {written_by(checkpoint)} processes, this run has {processes}: start as "
                "many, or start over with OVERWRITE=1"
            )
        print(f"going on from {checkpoint}")
        return checkpoint
    return None


def _free_name(path: Path, suffix: str) -> Path:
    """`PATH.SUFFIX`, or `PATH.SUFFIX-2` and on where that is taken."""
    names = (f"{path.name}.{suffix}{'' if number == 1 else f'-{number}'}" for number in itertools.count(1))
    return next(name for name in map(path.with_name, names) if not name.exists())


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
