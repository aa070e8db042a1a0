"""Merging adapters into their base, tensor by tensor, from safetensors to safetensors: verified or not there."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from tqdm import tqdm

from export.checkpoint import as_bytes, files_beside, finetuned_weights, local_folder, stored_tensors, weight_files
from pipeline.folders import atomic_directory
from spatial_edit_reward import Spec, save_spec
from spatial_edit_reward.errors import UserError, one_line
from spatial_edit_reward.inference.model import load_processor

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
# Elements of a weight that are merged at a time: few enough to stay in a core's cache.
BLOCK = 2**19
SHARDS_AT_ONCE = 4

# A tensor's name and the base's tensor -> what is written instead, of the same shape and dtype, in pieces.
Change = Callable[[str, torch.Tensor], Iterable[torch.Tensor]]


@dataclass(frozen=True)
class Lora:
    """The two factors and the scaling of one adapted weight: A is rank x inputs, B is outputs x rank."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float


def merged_rows(loras: Sequence[Lora], weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """`weight`, outputs x inputs, with each of `loras` in turn: W + (B @ A) * scaling in fp32, rounded to W's dtype after each.

    Comes as blocks of rows in order; a block is valid until the next one is taken. The order of operations is PEFT's, so that
    the result has the bits of PEFT's own merge into fp32 weights.
    """
    rows = max(1, BLOCK // weight.shape[1])
    delta, before = torch.empty(2, rows, weight.shape[1])
    after = torch.empty(rows, weight.shape[1], dtype=weight.dtype)
    factors = [(lora.a.float(), lora.b.float(), lora.scaling) for lora in loras]
    for start in range(0, len(weight), rows):
        block = weight[start : start + rows]
        count = len(block)
        for a, b, scaling in factors:
            torch.mm(b[start : start + count], a, out=delta[:count])
            delta[:count].mul_(scaling).add_(before[:count].copy_(block))
            block = after[:count].copy_(delta[:count])
        yield block


def load_adapter(folder: Path) -> dict[str, Lora]:
    """The adapter in `folder` by the checkpoint's name of each weight that it changes.

    Raises UserError where there is none, or one with more than plain LoRA on linear layers.
    """
    try:
        config = PeftConfig.from_pretrained(str(folder))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder}: no adapter that can be read: {one_line(error)}") from None
    modules = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    unpaired = set(tensors) ^ {f"{module}.lora_{factor}.weight" for module in modules for factor in "AB"}
    if unpaired or not modules:
        raise UserError(
            f"{folder}: {min(unpaired, default='no tensor')}: only plain LoRA on linear layers can be merged"
        )
    adapter = {}
    for module in modules:
        a, b = tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]
        name = module.removeprefix(PREFIX)
        alpha = config.alpha_pattern.get(get_pattern_key(list(config.alpha_pattern), name), config.lora_alpha)
        adapter[f"{name}.weight"] = Lora(a, b, alpha / (math.sqrt(len(a)) if config.use_rslora else len(a)))
    return adapter


def adapted(base: Path, adapters: Sequence[Path]) -> Change:
    """The adapters applied in order, each to the weight as it was stored after the one before.

    Raises UserError where one does not fit the base, or where the base is quantized.
    """
    if "quantization_config" in json.loads((base / "config.json").read_bytes()):
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


def finetuned(base: Path, checkpoint: Path) -> Change:
    """The weights of a full fine-tune instead of the base's. Raises UserError where their names or shapes differ."""
    weights = finetuned_weights(checkpoint, base)
    return lambda name, tensor: [weights(name, tensor)]


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
    """Copies the files beside the base's weights; writes the spec, and the processor with the spec's pixel limits."""
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


def write_verified(
    base: str, adapters: Sequence[Path], spec: Spec, folder: Path, partial: Path, checkpoint: Path | None = None
) -> None:
    """Merges `adapters` into `base` in the order of training, into the empty folder `partial`; verifies it in a new process.

    With `checkpoint`, the weights are those of a full fine-tune instead. Raises UserError, which names the merge by the
    `folder` that it becomes, where anything cannot be merged, cannot be written, or does not pass a check; then `partial` is
    to be deleted.
    """
    source = local_folder(base)
    change = finetuned(source, checkpoint) if checkpoint else adapted(source, adapters)
    trained = ["--checkpoint", str(checkpoint)] if checkpoint else ["--adapter", *map(str, adapters)]
    print(f"merging {', '.join(trained[1:])} into {base}", flush=True)
    try:
        write_merged(source, change, spec, partial)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
    command = [sys.executable, "-m", "export", "verify", str(partial), "--base", base, *trained]
    if subprocess.run(command, check=False).returncode != 0:
        raise UserError(f"{folder}: the merge did not pass its verification (above), so it was deleted")


def merge(base: str, adapters: Sequence[Path], spec: Spec, folder: Path, checkpoint: Path | None = None) -> None:
    """`write_verified` as `folder`, which appears only if every check passed."""
    with atomic_directory(folder) as partial:
        write_verified(base, adapters, spec, folder, partial, checkpoint)
