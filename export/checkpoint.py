"""What a checkpoint folder stores, read from the headers of its safetensors files; no tensor is loaded."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from pipeline.fingerprint import ABOUT
from spatial_edit_reward.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Everything beside the weights that some loader of a checkpoint reads.
BESIDE = ("*.json", "*.jinja", "*.txt")
# What stages write for themselves, and the index of weights in another format.
NOT_THE_MODELS = {*ABOUT, "trainer_state.json", "pytorch_model.bin.index.json"}


@dataclass(frozen=True)
class Stored:
    """A tensor as it is on disk: the file's name, safetensors' name of the dtype ("BF16"), the shape."""

    file: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def local_folder(name: str) -> Path:
    """The folder `name`, or the Hub's snapshot of it (from the cache where it is). Raises UserError where there is none."""
    folder = Path(name)
    if folder.is_dir():
        return folder
    if name.startswith(("/", ".")) or name.count("/") != 1:
        raise UserError(f"{name}: no such checkpoint folder, and no Hub name")
    try:
        return Path(snapshot_download(name, allow_patterns=[*BESIDE, "*.safetensors"]))
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: cannot be fetched: {' '.join(str(error).split())[:300]}") from None


def files_beside(folder: Path) -> list[str]:
    """Names of the files that belong to the checkpoint beside its weights, in order."""
    names = {file.name for pattern in BESIDE for file in folder.glob(pattern)}
    return sorted(names - NOT_THE_MODELS)


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold the weights, in order. Raises UserError where an index names none or a missing one."""
    if not (folder / INDEX).exists():
        names = [SINGLE]
    else:
        try:
            names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{folder / INDEX}: no index of tensors: {error}") from None
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise UserError(f"{folder}: {', '.join(missing) or 'weights'} missing")
    return names


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of the checkpoint by name.

    Raises UserError where a file cannot be read, or where the index and the files do not name the same tensors.
    """
    found: dict[str, Stored] = {}
    for file in weight_files(folder):
        try:
            with safe_open(folder / file, framework="numpy") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a dict
                    part = opened.get_slice(name)
                    found[name] = Stored(file, part.get_dtype(), tuple(part.get_shape()))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{folder / file}: not a whole safetensors file: {error}") from None
    if (folder / INDEX).exists():
        index = json.loads((folder / INDEX).read_text())["weight_map"]
        wrong = sorted(name for name in {*index, *found} if name not in found or index.get(name) != found[name].file)
        if wrong:
            raise UserError(f"{folder}: {INDEX} and the files disagree on {', '.join(wrong[:3])}")
    return found


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of `tensor` as they are stored: uint8, one dimension."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
