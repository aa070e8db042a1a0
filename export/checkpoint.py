"""What a checkpoint folder stores, read from the headers of its safetensors files; no tensor is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from pipeline.fingerprint import ABOUT
from spatial_edit_reward.errors import UserError, one_line

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Everything beside the weights that some loader of a checkpoint reads.
BESIDE = ("*.json", "*.jinja", "*.txt")
# What stages write for themselves, and the index of weights in another format.
NOT_THE_MODELS = {*ABOUT, "trainer_state.json", "pytorch_model.bin.index.json"}


@dataclass(frozen=True)
class StoredTensor:
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
        raise UserError(f"{name}: cannot be fetched: {one_line(error, 300)}") from None


def files_beside(folder: Path) -> list[str]:
    """Names of the files that belong to the checkpoint beside its weights, in order."""
    names = {file.name for pattern in BESIDE for file in folder.glob(pattern)}
    return sorted(names - NOT_THE_MODELS)


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold the weights, in order. Raises UserError where an index names none or a missing one."""
    names = [SINGLE]
    if (folder / INDEX).exists():
        try:
            names = sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{folder / INDEX}: no index of tensors: {error}") from None
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise UserError(f"{folder}: {', '.join(missing) or 'weights'} missing")
    return names


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of the checkpoint by name.

    Raises UserError where a file cannot be read, or where the index and the files do not name the same tensors.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        try:
            with safe_open(folder / file, framework="numpy") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a dict
                    part = opened.get_slice(name)
                    tensors[name] = StoredTensor(file, part.get_dtype(), tuple(part.get_shape()))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{folder / file}: not a whole safetensors file: {error}") from None
    if (folder / INDEX).exists():
        index = json.loads((folder / INDEX).read_bytes())["weight_map"]
        files = {name: tensor.file for name, tensor in tensors.items()}
        if wrong := sorted({name for name, _ in index.items() ^ files.items()}):
            raise UserError(f"{folder}: {INDEX} and the files disagree on {', '.join(wrong[:3])}")
    return tensors


def finetuned_weights(checkpoint: Path, base: Path) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """A function of a tensor's name and the base's tensor: the full fine-tune's, rounded to the base's dtype.

    An output layer that the base ties to its embeddings is left out. Raises UserError where the checkpoint's tensors are not
    the base's, by name and shape.
    """
    stored, expected = stored_tensors(checkpoint), stored_tensors(base)
    if json.loads((base / "config.json").read_bytes()).get("tie_word_embeddings") and "lm_head.weight" not in expected:
        stored.pop("lm_head.weight", None)
    shapes, expected_shapes = ({name: t.shape for name, t in tensors.items()} for tensors in (stored, expected))
    if wrong := sorted({name for name, _ in shapes.items() ^ expected_shapes.items()}):
        raise UserError(f"{checkpoint}: not the tensors of {base}, by name and shape: {', '.join(wrong[:3])}")
    opened = {file: safe_open(checkpoint / file, framework="pt") for file in weight_files(checkpoint)}
    return lambda name, tensor: opened[stored[name].file].get_tensor(name).to(tensor.dtype)


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of `tensor` as they are stored: uint8, one dimension."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
