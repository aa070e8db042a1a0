"""Which checkpoint a killed run goes on from: the last one that is whole."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from verdict import Spec, save_spec
from verdict.spec import FILE_NAME


class SpecBesideCheckpoints(TrainerCallback):
    """Writes `verdict.json` into every checkpoint, as its last file."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
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
    return (checkpoint / "optimizer.pt").exists() or any(checkpoint.glob("global_step*"))


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest whole `checkpoint-N` in `folder`, or None; broken newer ones are removed, each with a line that says so."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for checkpoint in sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True):
        if is_whole(checkpoint):
            print(f"going on from {checkpoint}")
            return checkpoint
        print(f"{checkpoint} is not whole (the run was stopped while writing it): removed")
        shutil.rmtree(checkpoint)
    return None
