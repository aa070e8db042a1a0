"""Merging adapters into their base, tensor by tensor, from safetensors to safetensors: verified or not there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import safe_open
from tqdm import tqdm

from export.adapter import load_adapter, merged_rows
from export.checkpoint import as_bytes, files_beside, local_folder, stored_tensors, weight_files
from pipeline.folders import atomic_directory
from spatial_edit_reward import Spec, save_spec
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.model import load_processor

SHARDS_AT_ONCE = 4

# A tensor's name and the base's tensor -> what is written in its place, of the same shape and dtype, in pieces.
Change = Callable[[str, torch.Tensor], Iterable[torch.Tensor]]


def adapted(base: Path, adapters: Sequence[Path]) -> Change:
    """The adapters applied in order, each to the weight as it was stored after the one before.

    Raises UserError where one does not fit the base, or where the base is quantized.
    """
    if "quantization_config" in json.loads((base / "config.json").read_text()):
        raise UserError(f"{base}: quantized: merge into the weights it was made from")
    loaded = [load_adapter(folder) for folder in adapters]
    stored = stored_tensors(base)
    for folder, adapter in zip(adapters, loaded, strict=True):
        for name, lora in adapter.items():
            shape = (len(lora.b), lora.a.shape[1])
            if name not in stored or stored[name].shape != shape:
                raise UserError(f"{folder}: {base} has no {name} of shape {shape[0]} x {shape[1]} to merge into")

    def change(name: str, tensor: torch.Tensor) -> Iterable[torch.Tensor]:
        loras = [adapter[name] for adapter in loaded if name in adapter]
        return merged_rows(loras, tensor) if loras else [tensor]

    return change


def trained(base: Path, checkpoint: Path) -> Change:
    """The weights of a full fine-tune in place of the base's, rounded to the base's dtype.

    An output layer that the base ties to its embeddings is left out. Raises UserError where names or shapes are not the base's.
    """
    stored, expected = stored_tensors(checkpoint), stored_tensors(base)
    if json.loads((base / "config.json").read_text()).get("tie_word_embeddings") and "lm_head.weight" not in expected:
        stored.pop("lm_head.weight", None)
    odd = sorted(set(stored) ^ set(expected))
    odd += [name for name in expected if name in stored and stored[name].shape != expected[name].shape]
    if odd:
        raise UserError(f"{checkpoint}: not the tensors of {base}, by name and shape: {', '.join(odd[:3])}")
    opened = {name: safe_open(checkpoint / name, framework="pt") for name in weight_files(checkpoint)}
    return lambda name, tensor: [opened[stored[name].file].get_tensor(name).to(tensor.dtype)]


def write_shard(source: Path, target: Path, change: Change, bar: tqdm) -> None:
    """Writes the safetensors file `source` as `target`, every tensor through `change`, a block of one in memory at a time.

    The header is the source's, byte for byte: names, dtypes, shapes and order stay.
    """
    with source.open("rb") as raw, safe_open(source, framework="pt") as base, target.open("wb") as out:
        length = raw.read(8)
        bar.update(out.write(length + raw.read(int.from_bytes(length, "little"))))
        for name in base.offset_keys():
            for piece in change(name, base.get_tensor(name)):
                bar.update(out.write(as_bytes(piece).numpy().data))


def write_beside(base: Path, spec: Spec, folder: Path) -> None:
    """Copies what stands beside the base's weights, puts the spec there and its pixel limits into the processor."""
    for name in files_beside(base):
        shutil.copyfile(base / name, folder / name)
    processor = load_processor(str(base), spec)
    processor.save_pretrained(folder)
    if (base / "preprocessor_config.json").exists():  # where loaders older than transformers 5 look
        processor.image_processor.save_pretrained(folder)
    save_spec(spec, folder)


def write_merged(base: Path, change: Change, spec: Spec, folder: Path) -> None:
    """Writes the changed base into `folder`, everything that a loader needs, on the disk when this returns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a thread a shard: the blocks are too small to be divided
    files = weight_files(base)
    total = sum((base / name).stat().st_size for name in files)
    with (
        tqdm(total=total, desc="merging", unit="B", unit_scale=True) as bar,
        ThreadPoolExecutor(SHARDS_AT_ONCE) as pool,
    ):
        list(pool.map(lambda name: write_shard(base / name, folder / name, change, bar), files))
    torch.set_num_threads(threads)
    write_beside(base, spec, folder)
    for file in folder.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())


def merge(base: str, adapters: Sequence[Path], spec: Spec, folder: Path, checkpoint: Path | None = None) -> None:
    """Merges `adapters` into `base` in the order of training as `folder`, and verifies it in a new process.

    With `checkpoint`, the weights are those of a full fine-tune instead. `folder` appears only if every check passed.
    Raises UserError otherwise.
    """
    source = local_folder(base)
    change = trained(source, checkpoint) if checkpoint else adapted(source, adapters)
    how = ["--checkpoint", str(checkpoint)] if checkpoint else ["--adapter", *map(str, adapters)]
    with atomic_directory(folder) as partial:
        print(f"merging {', '.join(how[1:])} into {base}", flush=True)
        try:
            write_merged(source, change, spec, partial)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
        command = [sys.executable, "-m", "export", "verify", str(partial), "--base", base, *how]
        if subprocess.run(command, check=False).returncode != 0:
            raise UserError(f"{folder}: the merge did not pass its verification (above), so it was deleted")
