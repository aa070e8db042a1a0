"""Does the merged model answer as the trained one? Logits and greedy verdicts on prompts with pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature, PreTrainedModel, ProcessorMixin

from data.synthetic.generate import group_rows
from export.checkpoint import weight_files
from spatial_edit_reward import Spec
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.images import fit
from spatial_edit_reward.inference.model import load_processor, vision_token_ids

# What rounding merged weights to fp32 may do to logits, computed in fp64: fp32 arithmetic alone moves logits of 20 as far.
TOLERANCE = 1e-4
PROMPTS = 4
ROOM = 1.2  # of the weights: what a GPU must have free to answer the prompts

Load = Callable[[], PreTrainedModel]


@dataclass(frozen=True)
class Answer:
    """Logits of every position of a prompt, and the greedy completion."""

    logits: torch.Tensor
    text: str


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def with_adapters(base: Path, adapters: Sequence[Path]) -> PreTrainedModel:
    """The base in fp32 with all the adapters at work on it, unmerged."""
    model = PeftModel.from_pretrained(load(base), str(adapters[0]), adapter_name="0")
    for number, adapter in enumerate(adapters[1:], start=1):
        model.load_adapter(str(adapter), adapter_name=str(number))
    model.base_model.set_adapter([str(number) for number in range(len(adapters))])
    return model


def with_weights(base: Path, checkpoint: Path) -> PreTrainedModel:
    """The base in fp32 with the weights of a full fine-tune, which may be a folder of nothing else."""
    model = load(base)
    for file in weight_files(checkpoint):
        model.load_state_dict(load_file(checkpoint / file), strict=False)
    return model


def prompts(processor: ProcessorMixin, spec: Spec) -> Iterator[BatchFeature]:
    """Processed prompts of synthetic pairs: `sc`, with two pictures, and `pq` in turn."""
    side = int(spec.pixels.max**0.5)
    for row in group_rows(seed=20260207, number=0, image_size=side)[:PROMPTS]:
        text = processor.apply_chat_template(
            prompt_messages(row["task"], row["instruction"], spec), add_generation_prompt=True
        )
        images = [fit(image, spec.pixels) for image in row["images"]]
        yield processor(text=[text], images=[images], return_tensors="pt")


def check_prompts(folder: Path, base: Path, spec: Spec) -> None:
    """Raises UserError where the checkpoint's processor makes another prompt, or other pixels, than training's did."""
    for found, expected in zip(
        prompts(AutoProcessor.from_pretrained(folder), spec),
        prompts(load_processor(str(base), spec), spec),
        strict=True,
    ):
        for name, tensor in expected.items():
            if not torch.equal(found[name], tensor):
                raise UserError(f"{folder}: its processor does not make the base's {name} of a prompt")


def device_for(model: PreTrainedModel, dtype: torch.dtype) -> str:
    """The device to answer on: the GPU where the model in `dtype` fits into its free memory, else the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    return "cuda" if ROOM * model.num_parameters() * dtype.itemsize < torch.cuda.mem_get_info()[0] else "cpu"


@torch.inference_mode()
def answers(source: Load, folder: Path, spec: Spec, dtype: torch.dtype, logits_in: torch.dtype) -> list[Answer]:
    """What the model that `source` gives answers to the prompts, verdicts written in `dtype`, logits in `logits_in`.

    On a GPU where there is one with room; the model is freed afterwards. `folder` holds the processor.
    """
    processor = AutoProcessor.from_pretrained(folder)
    model = source()
    model = model.to(device_for(model, logits_in), dtype).eval()
    asked = [prompt.to(model.device) for prompt in prompts(processor, spec)]
    texts = []
    for prompt in asked:
        written = model.generate(
            **prompt,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=spec.max_new_tokens,
            suppress_tokens=vision_token_ids(processor),
        )
        texts.append(processor.decode(written[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
    model = model.to(logits_in)
    return [Answer(model(**prompt).logits.cpu(), text) for prompt, text in zip(asked, texts, strict=True)]


def furthest(one: Sequence[Answer], other: Sequence[Answer]) -> float:
    """The largest difference of two models' logits."""
    return max(float((a.logits - b.logits).abs().max()) for a, b in zip(one, other, strict=True))


def same(one: Sequence[Answer], other: Sequence[Answer]) -> int:
    """How many greedy completions are the same text."""
    return sum(a.text == b.text for a, b in zip(one, other, strict=True))


def check_answers(folder: Path, expected: Load, spec: Spec, stored: torch.dtype) -> dict[str, Any]:
    """Compares the checkpoint in `folder`, reloaded, with the model that `expected` gives, both writing verdicts in fp32.

    Where weights are stored in fp32, logits, computed in fp64, may differ by TOLERANCE, and every verdict must be the same.
    Where they are stored in less, the merge was rounded: the tolerance is then measured, as what the same dtype's arithmetic
    does to the logits of the expected model itself, and verdicts are compared and reported. Raises UserError for a logit
    beyond the tolerance, and for another verdict in fp32.
    """
    logits_in = torch.float64 if stored == torch.float32 else torch.float32
    merged = answers(lambda: load(folder), folder, spec, torch.float32, logits_in)
    trained = answers(expected, folder, spec, torch.float32, logits_in)
    tolerance = TOLERANCE
    report: dict[str, Any] = {"prompts": PROMPTS, "same_verdicts": {"float32": same(merged, trained)}}
    if stored != torch.float32:
        rounded = answers(expected, folder, spec, stored, stored)
        tolerance = furthest(rounded, trained)
        name = str(stored).removeprefix("torch.")
        report["same_verdicts"][name] = same(answers(lambda: load(folder), folder, spec, stored, stored), rounded)
        report["tolerance_is"] = f"how far {name} arithmetic moves the logits of the trained model"
    difference = furthest(merged, trained)
    report |= {"max_logit_difference": difference, "tolerance": tolerance}
    if not difference <= tolerance:  # also catches NaN
        raise UserError(
            f"{folder}: logits differ from the trained model's by {difference:.2e}, more than {tolerance:.0e}"
        )
    if stored == torch.float32 and same(merged, trained) != PROMPTS:
        raise UserError(
            f"{folder}: {PROMPTS - same(merged, trained)} of {PROMPTS} greedy verdicts are not the trained model's"
        )
    return report
