"""Is a merged checkpoint what it claims to be? Every file, every tensor, and the answers, against what it was made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor

from export.answers import check_answers, check_prompts, with_adapters, with_weights
from export.checkpoint import files_beside, local_folder, weight_files
from export.tensors import check_headers, check_values, merged_by_peft, of_checkpoint
from spatial_edit_reward import load_spec
from spatial_edit_reward.errors import UserError

REQUIRED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "verdict.json",
)


def check_files(folder: Path, base: Path) -> list[str]:
    """Names of the checkpoint's files: REQUIRED, the weights, and all that the base has.

    Raises UserError where one is missing or no JSON, where the configuration is not the base's, or where the processor's
    pixel limits are not the spec's.
    """
    names = sorted({*REQUIRED, *files_beside(base)})
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: {', '.join(missing)} missing")
    for name in names:
        try:
            if name.endswith(".json"):
                json.loads((folder / name).read_text())
        except ValueError as error:
            raise UserError(f"{folder / name}: no JSON: {error}") from None
    if json.loads((folder / "config.json").read_text()) != json.loads((base / "config.json").read_text()):
        raise UserError(f"{folder}: config.json is not the base's")
    pixels = load_spec(folder).pixels
    size = AutoProcessor.from_pretrained(folder).image_processor.size
    if (size["shortest_edge"], size["longest_edge"]) != (pixels.min, pixels.max):
        raise UserError(f"{folder}: the processor's pixel limits are not those of verdict.json")
    return [*weight_files(folder), *names]


def stored_dtype(counts: dict[str, int]) -> torch.dtype:
    """The dtype that most tensors are stored in, of safetensors' names and counts."""
    name = max(counts, key=lambda name: counts[name])
    return {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}[name]


def verify(folder: Path, base: str, adapters: Sequence[Path], checkpoint: Path | None = None) -> dict[str, Any]:
    """Checks the checkpoint `folder`, read from disk, against `base` with `adapters`, or against a full `checkpoint`.

    Returns what `export_report.json` holds. Raises UserError naming the first thing that is wrong.
    """
    source = local_folder(base)
    files = check_files(folder, source)
    spec = load_spec(folder)
    check_prompts(folder, source, spec)
    tensors = check_headers(folder, source)
    expected = of_checkpoint(checkpoint) if checkpoint else merged_by_peft(source, adapters)
    tensors |= check_values(folder, source, expected)
    trained = (lambda: with_weights(source, checkpoint)) if checkpoint else (lambda: with_adapters(source, adapters))
    return {
        "passed": True,
        "base": base,
        "trained": [str(path) for path in ([checkpoint] if checkpoint else adapters)],
        "files": files,
        "tensors": tensors,
        "answers": check_answers(folder, trained, spec, stored_dtype(tensors["dtypes"])),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "safetensors")},
    }
