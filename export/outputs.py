"""Compares the merged model's outputs with the trained model's: logits and greedy completions of prompts with images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from data.synthetic.generate import group_rows
from export.checkpoint import weight_files
from spatial_edit_reward import Spec
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.images import fit
from spatial_edit_reward.inference.generation import generate_batch, prepare
from spatial_edit_reward.inference.model import load_processor

# What rounding merged weights to fp32 may do to logits, computed in fp64: fp32 arithmetic alone moves logits of 20 as far.
TOLERANCE = 1e-4
PROMPTS = 4
MEMORY_FACTOR = 1.2  # of the weights: what a GPU must have free to run the prompts

ModelLoader = Callable[[], PreTrainedModel]


@dataclass(frozen=True)
class Output:
    """Logits of every position of a prompt, and the greedy completion."""

    logits: torch.Tensor
    text: str


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def load_with_adapters(base: Path, adapters: Sequence[Path]) -> PreTrainedModel:
    """The base in fp32 with all the adapters active on it, unmerged."""
    model = PeftModel.from_pretrained(load(base), str(adapters[0]), adapter_name="0")
    for number, adapter in enumerate(adapters[1:], start=1):
        model.load_adapter(str(adapter), adapter_name=str(number))
    model.base_model.set_adapter([str(number) for number in range(len(adapters))])
    return model


def load_with_weights(base: Path, checkpoint: Path) -> PreTrainedModel:
    """The base in fp32 with the weights of a full fine-tune, which may be a folder of nothing else."""
    model = load(base)
    for file in weight_files(checkpoint):
        model.load_state_dict(load_file(checkpoint / file), strict=False)
    return model


def prompts(spec: Spec) -> Iterator[tuple[list[dict[str, Any]], list[Image.Image]]]:
    """(messages, images) of synthetic pairs: `sc`, with two images, and `pq` in turn."""
    for row in group_rows(seed=20260207, number=0, image_size=int(spec.pixels.max**0.5))[:PROMPTS]:
        messages = prompt_messages(row["task"], row["instruction"], spec)
        yield messages, [fit(image, spec.pixels) for image in row["images"]]


def check_prompts(folder: Path, base: Path, spec: Spec) -> None:
    """Raises UserError where the checkpoint's processor makes another prompt, or other pixels, than training's did."""
    merged, trained = AutoProcessor.from_pretrained(folder), load_processor(str(base), spec)
    for messages, images in prompts(spec):
        inputs = prepare(merged, [messages], [images])
        for name, tensor in prepare(trained, [messages], [images]).items():
            if not torch.equal(inputs[name], tensor):
                raise UserError(f"{folder}: its processor does not make the base's {name} of a prompt")


def choose_device(model: PreTrainedModel, dtype: torch.dtype) -> str:
    """The GPU where the model in `dtype` fits into its free memory, else the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    return "cuda" if MEMORY_FACTOR * model.num_parameters() * dtype.itemsize < torch.cuda.mem_get_info()[0] else "cpu"


@torch.inference_mode()
def run_prompts(
    loader: ModelLoader, folder: Path, spec: Spec, dtype: torch.dtype, logits_dtype: torch.dtype
) -> list[Output]:
    """The outputs of `loader`'s model on the prompts, completions written in `dtype`, logits in `logits_dtype`.

    On a GPU where there is one with room; the model is freed afterwards. `folder` holds the processor.
    """
    processor = AutoProcessor.from_pretrained(folder)
    model = loader()
    model = model.to(choose_device(model, logits_dtype), dtype).eval()
    written = [
        generate_batch(model, processor, [messages], [images], spec.max_new_tokens)
        for messages, images in prompts(spec)
    ]
    model = model.to(logits_dtype)
    return [Output(model(**batch.inputs).logits.cpu(), batch.responses[0].text) for batch in written]


def max_logit_difference(one: Sequence[Output], other: Sequence[Output]) -> float:
    return max(float((a.logits - b.logits).abs().max()) for a, b in zip(one, other, strict=True))


def count_same_texts(one: Sequence[Output], other: Sequence[Output]) -> int:
    return sum(a.text == b.text for a, b in zip(one, other, strict=True))


def compare_outputs(folder: Path, expected: ModelLoader, spec: Spec, stored: torch.dtype) -> dict[str, Any]:
    """Compares the checkpoint in `folder`, reloaded, with the model that `expected` loads, both writing verdicts in fp32.

    Where weights are stored in fp32, logits, computed in fp64, may differ by TOLERANCE, and every verdict must be the same.
    Where they are stored in less, the merge was rounded: the tolerance is then measured, as what the same dtype's arithmetic
    does to the logits of the expected model itself, and verdicts are compared and reported. Raises UserError for a logit
    beyond the tolerance, and for another verdict in fp32.
    """
    logits_dtype = torch.float64 if stored == torch.float32 else torch.float32
    merged = run_prompts(lambda: load(folder), folder, spec, torch.float32, logits_dtype)
    trained = run_prompts(expected, folder, spec, torch.float32, logits_dtype)
    tolerance, same = TOLERANCE, count_same_texts(merged, trained)
    report: dict[str, Any] = {"prompts": PROMPTS, "same_verdicts": {"float32": same}}
    if stored != torch.float32:
        rounded = run_prompts(expected, folder, spec, stored, stored)
        tolerance = max_logit_difference(rounded, trained)
        name = str(stored).removeprefix("torch.")
        stored_outputs = run_prompts(lambda: load(folder), folder, spec, stored, stored)
        report["same_verdicts"][name] = count_same_texts(stored_outputs, rounded)
        report["tolerance_is"] = f"how far {name} arithmetic moves the logits of the trained model"
    difference = max_logit_difference(merged, trained)
    report |= {"max_logit_difference": difference, "tolerance": tolerance}
    if not difference <= tolerance:  # also catches NaN
        raise UserError(
            f"{folder}: logits differ from the trained model's by {difference:.2e}, more than {tolerance:.0e}"
        )
    if stored == torch.float32 and same != PROMPTS:
        raise UserError(f"{folder}: {PROMPTS - same} of {PROMPTS} greedy verdicts are not the trained model's")
    return report
