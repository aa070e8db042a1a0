"""Is every stored tensor what it must be? Names, shapes and dtypes are the base's, values those of a recomputation by PEFT."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForImageTextToText

from export.checkpoint import as_bytes, stored_tensors, weight_files
from spatial_edit_reward.errors import UserError

# A tensor's name and the base's tensor -> what must be stored, or None where nothing changed it.
Expected = Callable[[str, torch.Tensor], torch.Tensor | None]


def check_headers(folder: Path, base: Path) -> dict[str, Any]:
    """Counts of the tensors in `folder`. Raises UserError where names, files, shapes or dtypes are not the base's."""
    found, expected = stored_tensors(folder), stored_tensors(base)
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        raise UserError(f"{folder}: tensors missing {missing[:3]}, not in the base {extra[:3]}")
    for name, stored in found.items():
        if not stored.elements:
            raise UserError(f"{folder}: {name} is empty")
        if stored != expected[name]:
            raise UserError(f"{folder}: {name} is {stored}, in the base {expected[name]}")
    return {
        "parameters": sum(stored.elements for stored in found.values()),
        "tensors": len(found),
        "dtypes": dict(Counter(stored.dtype for stored in found.values())),
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
        odd = [*loaded.unexpected_keys, *(key for key in loaded.missing_keys if "lora_" in key)]
        if odd:
            raise UserError(f"{adapter}: {odd[0]} is not in both the adapter and the model that its settings make")
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


def of_checkpoint(checkpoint: Path) -> Expected:
    """The tensors of a full fine-tune, rounded to the stored dtype."""
    stored = stored_tensors(checkpoint)

    def expected(name: str, tensor: torch.Tensor) -> torch.Tensor | None:
        with safe_open(checkpoint / stored[name].file, framework="pt") as opened:
            found: torch.Tensor = opened.get_tensor(name)
        return found.to(tensor.dtype)

    return expected


def check_values(folder: Path, base: Path, expected: Expected) -> dict[str, int]:
    """How many tensors were to be changed, and how many were.

    Raises UserError where a value is not finite, or where the bits are not those expected: the base's, for a tensor that
    nothing was to change.
    """
    changed = other = 0
    with tqdm(total=len(stored_tensors(folder)), desc="checking", unit="tensor") as bar:
        for file in weight_files(folder):
            with safe_open(folder / file, framework="pt") as merged, safe_open(base / file, framework="pt") as before:
                for name in merged.keys():  # noqa: SIM118 - not a dict
                    found, old = merged.get_tensor(name), before.get_tensor(name)
                    if not torch.isfinite(found).all():
                        raise UserError(f"{folder}: {name} holds NaN or Inf")
                    new = expected(name, old)
                    wrong = int((as_bytes(found) != as_bytes(old if new is None else new)).sum())
                    if wrong:
                        how = "the base's, which nothing was to change" if new is None else "what the training gave"
                        raise UserError(f"{folder}: {name} is not {how}: {wrong} of {found.nbytes} bytes differ")
                    changed += new is not None
                    other += not torch.equal(found, old)
                    bar.update()
    if not changed:
        raise UserError(f"{folder}: no tensor was to be changed: the adapters fit no layer of {base}")
    return {"to_change": changed, "changed": other}
