"""Is a merged checkpoint what it claims to be? Files, parameter count, key set, and logits against base + adapter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from data.images import fit
from data.rows import prompt_messages
from data.synthetic.generate import group_rows
from pipeline.errors import UserError
from verdict import Spec, load_spec

REQUIRED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "verdict.json",
)
# fp32: reassociated sums of a merged and an unmerged adapter differ by rounding only.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Verification:
    """What `verify` measured; it raised if any of it was not as it must be."""

    parameters: int
    tensors: int
    prompts: int
    max_logit_difference: float
    tolerance: float = TOLERANCE


def stored_tensors(folder: str) -> dict[str, int]:
    """Name -> number of elements of every tensor in a checkpoint folder's safetensors files (read from their headers)."""
    sizes: dict[str, int] = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                sizes[name] = torch.Size(opened.get_slice(name).get_shape()).numel()
    return sizes


def check_tensors(folder: str, base: str) -> tuple[int, int]:
    """(parameters, tensors) of `folder`. Raises UserError where they are not the base's, by name and size."""
    merged, expected = stored_tensors(folder), stored_tensors(base)
    missing, extra = sorted(set(expected) - set(merged)), sorted(set(merged) - set(expected))
    if missing or extra:
        raise UserError(f"{folder}: tensors missing {missing[:3]}, not in the base {extra[:3]}")
    wrong = [name for name, size in merged.items() if size != expected[name]]
    if wrong:
        raise UserError(f"{folder}: {wrong[0]} has {merged[wrong[0]]} elements, the base {expected[wrong[0]]}")
    return sum(merged.values()), len(merged)


def prompts(processor: ProcessorMixin, spec: Spec, count: int) -> Iterator[dict[str, torch.Tensor]]:
    """`count` processed prompts of synthetic pairs, `sc` and `pq` in turn."""
    side = int(spec.pixels.max**0.5)
    for row in group_rows(seed=20260207, number=0, side=side)[:count]:
        text = processor.apply_chat_template(
            prompt_messages(row["task"], row["instruction"], spec), add_generation_prompt=True
        )
        images = [fit(image, spec.pixels) for image in row["images"]]
        yield processor(text=[text], images=[images], return_tensors="pt")


@torch.no_grad()
def logits(model: PreTrainedModel, inputs: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
    model.eval()
    return [model(**prompt).logits for prompt in inputs]


def verify(folder: str, base: str, adapter: str, count: int = 4) -> Verification:
    """Checks the merged checkpoint `folder`, read from disk, against `base` with `adapter` on it, in fp32.

    Raises UserError naming the first thing that is wrong.
    """
    missing = [name for name in REQUIRED if not (Path(folder) / name).exists()]
    if missing:
        raise UserError(f"{folder}: {', '.join(missing)} missing")
    parameters, tensors = check_tensors(folder, base)
    spec = load_spec(Path(folder))
    inputs = list(prompts(AutoProcessor.from_pretrained(folder), spec, count))
    merged = logits(AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32), inputs)
    unmerged = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    expected = logits(PeftModel.from_pretrained(unmerged, adapter), inputs)
    largest = max(float((a - b).abs().max()) for a, b in zip(merged, expected, strict=True))
    if not largest <= TOLERANCE:  # also catches NaN
        raise UserError(f"{folder}: logits differ from base + adapter by {largest:.2e}, more than {TOLERANCE:.0e}")
    return Verification(parameters, tensors, len(inputs), largest)
