"""Verifies a merged checkpoint: every file, every tensor, and what it writes, against what it was made from."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from export.checkpoint import as_bytes, files_beside, finetuned_weights, local_folder, stored_tensors, weight_files
from export.outputs import check_prompts, compare_outputs, load_with_adapters, load_with_weights
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
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}  # by safetensors' names

# A tensor's name and the base's tensor -> what must be stored, or None where training did not change it.
Expected = Callable[[str, torch.Tensor], torch.Tensor | None]


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
                json.loads((folder / name).read_bytes())
        except ValueError as error:
            raise UserError(f"{folder / name}: no JSON: {error}") from None
    if json.loads((folder / "config.json").read_bytes()) != json.loads((base / "config.json").read_bytes()):
        raise UserError(f"{folder}: config.json is not the base's")
    pixels = load_spec(folder).pixels
    size = AutoProcessor.from_pretrained(folder).image_processor.size
    if (size["shortest_edge"], size["longest_edge"]) != (pixels.min, pixels.max):
        raise UserError(f"{folder}: the processor's pixel limits are not those of verdict.json")
    return [*weight_files(folder), *names]


def check_headers(folder: Path, base: Path) -> dict[str, Any]:
    """Counts of the tensors in `folder`. Raises UserError where names, files, shapes or dtypes are not the base's."""
    stored, expected = stored_tensors(folder), stored_tensors(base)
    missing, extra = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    if missing or extra:
        raise UserError(f"{folder}: tensors missing {missing[:3]}, not in the base {extra[:3]}")
    for name, tensor in stored.items():
        if not tensor.elements:
            raise UserError(f"{folder}: {name} is empty")
        if tensor != expected[name]:
            raise UserError(f"{folder}: {name} is {tensor}, in the base {expected[name]}")
    return {
        "parameters": sum(tensor.elements for tensor in stored.values()),
        "tensors": len(stored),
        "dtypes": dict(Counter(tensor.dtype for tensor in stored.values())),
    }


def merged_by_peft(base: Path, adapters: Sequence[Path]) -> Expected:
    """The tensors as PEFT merges them, one linear layer at a time: which modules, factors and scalings is PEFT's own answer.

    The weight is fp32 while it is merged and rounded to the stored dtype after each adapter. Only the adapters are in memory.
    """
    layers: dict[str, list[LoraLayer]] = defaultdict(list)
    config = AutoConfig.from_pretrained(base)
    for adapter in adapters:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                # PEFT puts an adapter where the layer's weight is: in memory, where this one takes no room.
                module.weight = torch.nn.Parameter(torch.zeros(()).expand(module.weight.shape), requires_grad=False)
        model = PeftModel(model, PeftConfig.from_pretrained(str(adapter)))
        loaded = set_peft_model_state_dict(model, load_peft_weights(str(adapter), device="cpu"))
        wrong = [*loaded.unexpected_keys, *(key for key in loaded.missing_keys if "lora_" in key)]
        if wrong:
            raise UserError(f"{adapter}: {wrong[0]} is not in both the adapter and the model that its settings make")
        for name, module in model.base_model.model.named_modules():
            if isinstance(module, LoraLayer):
                layers[f"{name}.weight"].append(module.float())

    def expected(name: str, tensor: torch.Tensor) -> torch.Tensor | None:
        for layer in layers.get(name, ()):
            linear = layer.get_base_layer()
            linear.weight = torch.nn.Parameter(tensor.float(), requires_grad=False)
            layer.merge(safe_merge=True)
            tensor = linear.weight.detach().to(tensor.dtype)
            del linear.weight
        return tensor if name in layers else None

    return expected


def check_values(folder: Path, base: Path, expected: Expected) -> dict[str, int]:
    """Counts of the tensors that training was to change, and of those that differ from the base's.

    Raises UserError where a value is not finite, or where the bits are not the expected ones: the base's, for a tensor that
    training did not change.
    """
    changed = different = 0
    with tqdm(total=len(stored_tensors(folder)), desc="checking", unit="tensor") as bar:
        for file in weight_files(folder):
            with safe_open(folder / file, framework="pt") as merged, safe_open(base / file, framework="pt") as before:
                for name in merged.keys():  # noqa: SIM118 - not a dict
                    stored, old = merged.get_tensor(name), before.get_tensor(name)
                    if not torch.isfinite(stored).all():
                        raise UserError(f"{folder}: {name} holds NaN or Inf")
                    new = expected(name, old)
                    wrong = int((as_bytes(stored) != as_bytes(old if new is None else new)).sum())
                    if wrong:
                        origin = "the base's, which nothing was to change" if new is None else "what the training gave"
                        raise UserError(f"{folder}: {name} is not {origin}: {wrong} of {stored.nbytes} bytes differ")
                    changed += new is not None
                    different += not torch.equal(stored, old)
                    bar.update()
    if not changed:
        raise UserError(f"{folder}: no tensor was to be changed: the adapters fit no layer of {base}")
    return {"to_change": changed, "changed": different}


def verify(folder: Path, base: str, adapters: Sequence[Path], checkpoint: Path | None = None) -> dict[str, Any]:
    """Checks the checkpoint `folder`, read from disk, against `base` with `adapters`, or against a full `checkpoint`.

    Returns what `export_report.json` holds. Raises UserError naming the first thing that is wrong.
    """
    source = local_folder(base)
    files = check_files(folder, source)
    spec = load_spec(folder)
    check_prompts(folder, source, spec)
    tensors = check_headers(folder, source)
    expected = finetuned_weights(checkpoint, source) if checkpoint else merged_by_peft(source, adapters)
    tensors |= check_values(folder, source, expected)
    dtype = DTYPES[max(tensors["dtypes"], key=tensors["dtypes"].get)]  # of most tensors
    trained = (
        (lambda: load_with_weights(source, checkpoint))
        if checkpoint
        else (lambda: load_with_adapters(source, adapters))
    )
    return {
        "passed": True,
        "base": base,
        "trained": [str(path) for path in ([checkpoint] if checkpoint else adapters)],
        "files": files,
        "tensors": tensors,
        "answers": compare_outputs(folder, trained, spec, dtype),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "safetensors")},
    }
