"""What an adapter adds to each weight of its base, in fp32."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file

from spatial_edit_reward.errors import UserError

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
# Elements of a weight that are merged at a time: few enough to stay in a core's cache.
BLOCK = 2**19


@dataclass(frozen=True)
class Lora:
    """The two factors and the scaling of one adapted weight: A is rank x inputs, B is outputs x rank."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float


def merged_rows(loras: Sequence[Lora], weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """`weight`, outputs x inputs, with each of `loras` in turn: W + (B @ A) * scaling in fp32, rounded to W's dtype after each.

    Comes as blocks of rows in order; a block is valid until the next is asked for. The order of operations is PEFT's, so that
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
        raise UserError(f"{folder}: no adapter that can be read: {' '.join(str(error).split())[:200]}") from None
    modules = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    odd = set(tensors) ^ {f"{module}.lora_{factor}.weight" for module in modules for factor in "AB"}
    if odd or not modules:
        found = min(odd) if odd else "no tensor"
        raise UserError(f"{folder}: {found}: only plain LoRA on linear layers can be merged")
    adapter = {}
    for module in modules:
        a, b = tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]
        name = module.removeprefix(PREFIX)
        alpha = config.alpha_pattern.get(get_pattern_key(list(config.alpha_pattern), name), config.lora_alpha)
        adapter[f"{name}.weight"] = Lora(a, b, alpha / (math.sqrt(len(a)) if config.use_rslora else len(a)))
    return adapter
