"""Which checkpoint a killed run goes on from: the last complete one."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import zipfile
from pathlib import Path

from spatial_edit_reward.errors import UserError, one_line
from spatial_edit_reward.spec import FILE_NAME

NAME = re.compile(r"checkpoint-\d+")
WEIGHTS = ("*.safetensors", "*.pt", "*.pth", "*.bin")
# The optimizer's state: of one process or DDP, of FSDP in one file and in pieces, of DeepSpeed.
OPTIMIZER = ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*")
# It is written before the Trainer's state: where that is there, no kill explains that this is not (save_only_model does).
OPTIMIZER_STATE = "the optimizer's state"


def incomplete_file(checkpoint: Path) -> str | None:
    """The file that a Trainer checkpoint lacks or that was cut off in it; None where every file reads to its end.

    The Trainer writes `checkpoint-N` in place, its state last; `verdict.json` follows (SpecBesideCheckpoints). Raises OSError
    where a file is there and cannot be read, or is damaged: nothing is known of the checkpoint then.
    """
    for name in ("trainer_state.json", FILE_NAME):
        try:
            json.loads((checkpoint / name).read_bytes())
        except (FileNotFoundError, ValueError):
            return name
    for file in sorted(file for pattern in WEIGHTS for file in checkpoint.rglob(pattern)):
        if not (_whole_tensors(file) if file.suffix == ".safetensors" else _whole_archive(file)):
            return file.name
    return None if any(any(checkpoint.glob(pattern)) for pattern in OPTIMIZER) else OPTIMIZER_STATE


def _whole_tensors(file: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > size:
            return False
        try:
            header = json.loads(opened.read(length))
        except ValueError:
            return False
    try:
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    except (AttributeError, KeyError, TypeError, IndexError):
        raise OSError(f"{file.name}: its header is no list of tensors") from None
    return bool(size == 8 + length + max(ends, default=0))


def _whole_archive(file: Path) -> bool:
    """Whether the zip archive that torch.save wrote has its directory, which stands at its end. Raises OSError for damage."""
    try:
        with file.open("rb") as opened:
            damaged = zipfile.ZipFile(opened).testzip()
    except zipfile.BadZipFile:
        return False
    if damaged:
        raise OSError(f"{file.name}: {damaged} is damaged")
    return True


def written_by(checkpoint: Path) -> int:
    """How many processes wrote the checkpoint: each leaves the state of its random numbers."""
    return len(list(checkpoint.glob("rng_state*.pth")))


def last_checkpoint(folder: Path, processes: int) -> Path | None:
    """The newest complete `checkpoint-N` in `folder`, or None.

    A newer one that was cut off is removed; one that cannot be read, or was saved without the optimizer, is renamed to
    `unreadable-checkpoint-N`; each with a line that says so. Raises UserError for a checkpoint that another number of
    `processes` wrote: the global batch would be another.
    """
    steps = {
        int(path.name.removeprefix("checkpoint-")): path
        for path in folder.glob("checkpoint-*")
        if NAME.fullmatch(path.name)
    }
    for _, checkpoint in sorted(steps.items(), reverse=True):
        try:
            incomplete = incomplete_file(checkpoint)
            unusable = "holds no state of the optimizer" if incomplete == OPTIMIZER_STATE else None
        except OSError as error:
            unusable = f"cannot be read ({one_line(error)})"
        if unusable:
            aside = checkpoint.rename(_unreadable_name(checkpoint))
            print(f"{checkpoint} {unusable}: kept as {aside.name}, not used")
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


def _unreadable_name(checkpoint: Path) -> Path:
    """A free name that does not begin like a checkpoint's: the Trainer removes old ones of those (save_total_limit)."""
    names = (f"unreadable-{checkpoint.name}{f'-{number}' if number else ''}" for number in itertools.count())
    return next(name for name in map(checkpoint.with_name, names) if not name.exists())
