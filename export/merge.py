"""Merging an adapter into its base: whole weights with everything beside them that a loader needs, verified or not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

from pipeline.errors import UserError
from pipeline.folders import whole_folder
from verdict import Spec, save_spec


def write_merged(base: str, adapter: Path, spec: Spec, folder: Path) -> None:
    """Writes base + adapter into `folder`: weights in the base's dtype (merged in fp32), processor, spec, generation config.

    The whole model is held in memory, in fp32.
    """
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    stored = getattr(model.config.get_text_config(), "dtype", None) or model.config.dtype
    adapted = PeftModel.from_pretrained(model, str(adapter))
    merged = adapted.merge_and_unload(progressbar=True, safe_merge=True)
    merged.to(stored if isinstance(stored, torch.dtype) else torch.float32).save_pretrained(folder)
    processor = AutoProcessor.from_pretrained(base)
    limits = {"shortest_edge": spec.pixels.min, "longest_edge": spec.pixels.max}
    processor.image_processor.size = limits
    processor.save_pretrained(folder)
    save_spec(spec, folder)


def merge(base: str, adapter: Path, spec: Spec, folder: Path) -> None:
    """Merges `adapter` into `base` as `folder`, and verifies it by reloading it in a new process.

    `folder` appears only if every check passed. Raises UserError otherwise.
    """
    with whole_folder(folder) as partial:
        print(f"merging {adapter} into {base}", flush=True)
        write_merged(base, adapter, spec, partial)
        command = [sys.executable, "-m", "export", "verify", str(partial), "--base", base, "--adapter", str(adapter)]
        if subprocess.run(command, check=False).returncode != 0:
            raise UserError(f"{folder}: the merge did not pass its verification (above), so it was deleted")
