"""A few steps of a stage's own trainer at a recipe's sizes, on random weights and rows: what they cost on this machine.

`python -m sft|grpo --config recipes/NAME/STAGE.yaml --random_weights`: no data, no weights to download, nothing saved but a
JSON file. The first step is a warm-up and the last one is counted, which slows it, so neither is in the median of seconds.
"""

from __future__ import annotations

import math
import platform
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    TrainerCallback,
)

from pipeline.distributed import free_memory_and_shutdown, num_parameters
from pipeline.model import Inputs
from pipeline.qwen import qwen_processor, qwen_tokenizer
from pipeline.recipe import config_folder, read_yaml
from spatial_edit_reward import Spec
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.files import write_json
from spatial_edit_reward.inference.attention import best_attention
from spatial_edit_reward.inference.model import load_model, load_processor

ROWS = 64  # they are read over and over
ANSWER = 300  # mean tokens of a verdict, where the recipe's plan.yaml does not say
INSTRUCTION = "Replace the small red cup on the left of the table by a blue vase of the same size."

# torch counts attention's kernels of GPUs alone: the same formulas for those of a CPU, by the shapes of their arguments.
ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: (
        sdpa_backward_flop_count(grad, q, k, v)
    ),
}


def random_inputs(
    recipe: Path, model_args: Any, quantized: BitsAndBytesConfig | None, seed: int, completions: bool
) -> Inputs:
    """Model, processor, spec and rows of the stage's file `recipe`, without its data or its base's weights.

    The configuration is that of the base where it is a folder, or the `config.json` beside the recipe or one that it extends.
    Raises UserError without one.
    """
    data, sft = read_yaml(recipe.parent / "data.yaml"), recipe.parent / "sft.yaml"
    base = str(read_yaml(sft)["model_name_or_path"])
    folder = config_folder(sft, base)
    if folder is None:
        raise UserError(f"{recipe.parent}: no config.json there, and {base} is no folder: the model's shape is unknown")
    config = AutoConfig.from_pretrained(folder)
    prompts = {**Spec.model_fields["prompts"].default, **data.get("prompts", {})}
    spec = Spec(pixels=data["pixels"], max_new_tokens=data["max_new_tokens"], prompts=prompts)
    processor = _processor(base, spec, config)
    plan = recipe.parent / "plan.yaml"
    answer = min(read_yaml(plan).get("answer_tokens", ANSWER) if plan.exists() else ANSWER, spec.max_new_tokens)
    rows = random_rows(spec, processor, answer if completions else None)
    return Inputs(random_model(config, model_args, quantized, seed), processor, spec, rows)


def _processor(base: str, spec: Spec, config: PreTrainedConfig) -> ProcessorMixin:
    """The base's processor; where it cannot be fetched, Qwen's own, made from `dashscope`."""
    try:
        return load_processor(base, spec)
    except UserError:
        processor = qwen_processor(qwen_tokenizer(), config.vision_config.patch_size, spec.pixels)
        processor.tokenizer.padding_side = "left"
        return processor


def random_model(
    config: PreTrainedConfig, model_args: Any, quantized: BitsAndBytesConfig | None, seed: int
) -> PreTrainedModel:
    """The model of `config` with random weights, made on the device; one that is to be quantized goes through a folder."""
    torch.manual_seed(seed)
    stored = config.dtype or config.get_text_config().dtype or torch.float32
    dtype = stored if model_args.dtype == "auto" else getattr(torch, model_args.dtype or "float32")
    kernel, _ = best_attention(model_args.attn_implementation, dtype)
    with PartialState().device:
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=kernel)
    if quantized is None:
        return model
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        del model
        return load_model(folder, model_args.dtype, model_args.attn_implementation, quantized)


def random_rows(spec: Spec, processor: ProcessorMixin, answer: int | None) -> Dataset:
    """ROWS `sc` rows: the largest square images of the spec, noise, and a completion of about `answer` tokens if given."""
    side = math.isqrt(spec.pixels.max) // spec.pixels.multiple * spec.pixels.multiple
    images = [Image.effect_noise((side, side), 40).convert("RGB") for _ in range(2)]
    row: dict[str, Any] = {"prompt": prompt_messages("sc", INSTRUCTION, spec), "images": images}
    if answer is not None:
        words = "the edited region "
        text = words * max(1, answer // len(processor.tokenizer(words)["input_ids"]))
        row["completion"] = [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
    return Dataset.from_list([row] * ROWS)


class StepMeter(TrainerCallback):
    """Seconds of every step, with its rollout's where there is one, and the operations of the last step."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.seconds: list[float] = []
        self.rollouts: list[float | None] = []  # of every step; it reuses an earlier one where there is none
        self.operations = self.rollout_operations = 0
        self._counter: FlopCounterMode | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.steps - 1:
            self._counter = FlopCounterMode(display=False, custom_mapping=ON_CPU)
            self._counter.__enter__()
        self.rollouts.append(None)
        self._start = _now()

    def reward(self, completions: list[Any], **kwargs: Any) -> list[float | None]:
        """A reward that differs within a group; it is asked for when the rollout is over."""
        self.rollouts[-1] = _now() - self._start
        if self._counter:
            self.rollout_operations = self._counter.get_total_flops()
        return [index % 7 / 7 for index in range(len(completions))]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(_now() - self._start)
        if self._counter:
            self._counter.__exit__(None, None, None)
            self.operations = self._counter.get_total_flops()


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_bytes() -> int:
    """The most memory that this process ever held: of the GPU as allocated, else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def time_steps(trainer: Any, recipe: Path, meter: StepMeter | None = None) -> None:
    """Runs the trainer's steps; prints what they cost and writes it as `STAGE.json` into the trainer's output folder.

    Raises UserError for fewer than three steps, and where the memory does not suffice.
    """
    args, model, cuda = trainer.args, trainer.model, torch.cuda.is_available()
    if args.max_steps < 3:
        raise UserError(f"max_steps: {args.max_steps}: a warm-up, a step that is timed and one that is counted are 3")
    meter = meter or StepMeter(args.max_steps)
    trainer.add_callback(meter)
    report: dict[str, Any] = {
        "recipe": str(recipe),
        "card": {
            "name": torch.cuda.get_device_name() if cuda else "cpu",
            "memory_bytes": torch.cuda.mem_get_info()[1] if cuda else None,
        },
        "model": {
            "parameters": num_parameters(model),
            "trained": num_parameters(model, trained=True),
            "dtype": str(model.dtype).removeprefix("torch."),
            "attention": model.config._attn_implementation,
        },
    }
    try:
        trainer.train()
    except torch.OutOfMemoryError:
        raise UserError(
            f"out of memory with per_device_train_batch_size {args.per_device_train_batch_size}: give a smaller one"
        ) from None
    seconds = statistics.median(meter.seconds[1:-1])
    report |= {
        "rows": args.per_device_train_batch_size * args.gradient_accumulation_steps,
        "seconds": seconds,
        "all_seconds": meter.seconds,
        "operations": meter.operations,
        "operations_per_second": meter.operations / seconds,
        "peak_bytes": _peak_bytes(),
    }
    rollouts = [rollout for rollout in meter.rollouts[1:-1] if rollout is not None]
    if rollouts:
        report["rollout"] = {"seconds": statistics.median(rollouts), "operations": meter.rollout_operations}
    report["versions"] = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    if trainer.is_world_process_zero():
        file = Path(args.output_dir) / f"{recipe.stem}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, report)
        print(
            f"{recipe.stem}: {seconds:.2f} s a step of {report['rows']} rows, {meter.operations / 1e12:.3g} TFLOP, "
            f"{meter.operations / seconds / 1e12:.3g} TFLOP/s, {report['peak_bytes'] / 2**30:.1f} GiB at most; {file}"
        )
    free_memory_and_shutdown(trainer)
