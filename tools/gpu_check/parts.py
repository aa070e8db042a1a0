"""The parts of the check, each a function that returns what goes into the JSON."""

from __future__ import annotations

import dataclasses
import time
from importlib import import_module
from typing import Any

import torch
from peft import PeftModel

from tools.gpu_check import steps
from tools.gpu_check.measure import (
    attention_kernels,
    forward_operations,
    matmul_speed,
    stated_speed,
    synchronise,
    timed,
    training_operations,
)
from tools.gpu_check.shapes import PICTURES, Shapes, random_batch

REPEATS = 3
TOLERANCE = 1e-4  # of fp32 losses, relative


def the_card(device: torch.device) -> dict[str, Any]:
    """Name, memory and speed of the device."""
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else "cpu"
    memory = torch.cuda.get_device_properties(device).total_memory if cuda else None
    dtype = torch.bfloat16 if cuda else torch.float32
    speed = matmul_speed(device, dtype)
    return {"name": name, "memory_bytes": memory, "matmul_per_second": speed, "stated_per_second": stated_speed(name)}


def utilisation(operations: float, seconds: float, card: dict[str, Any]) -> dict[str, Any]:
    """Model operations a second, and their share of the card's stated speed and of its own fastest product."""
    reached = operations / seconds
    stated = card["stated_per_second"]
    return {
        "operations": operations,
        "operations_per_second": reached,
        "mfu": stated and reached / stated,
        "share_of_matmul": reached / card["matmul_per_second"],
    }


def mixed(device: torch.device, shapes: Shapes) -> torch.autocast:
    """bf16 autocast as the trainers use it with `bf16: true`; none for a recipe in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=shapes.dtype == "bfloat16")


def sft(model: PeftModel, shapes: Shapes, device: torch.device, card: dict[str, Any]) -> dict[str, Any] | None:
    """A micro-batch of stage 1 forward and backward, and the optimizer's step."""
    optimizer = steps.optimizer_of(model)

    def attempt(rows: int) -> dict[str, Any]:
        batch = random_batch(shapes, rows, shapes.answer, device)

        def micro_step() -> None:
            with mixed(device, shapes):
                loss = steps.sft_loss(model, batch, shapes.answer)
            loss.backward()

        def update() -> None:
            optimizer.step()
            optimizer.zero_grad()

        optimizer.zero_grad()
        found = timed(micro_step, device, REPEATS)
        tokens = batch["input_ids"].numel()
        kernels = attention_kernels(micro_step, device)
        found |= {"optimiser_seconds": timed(update, device, 1)["seconds"], "attention": kernels}
        found |= {"tokens_per_row": shapes.prompt + shapes.answer, "tokens_per_second": tokens / found["seconds"]}
        operations = training_operations(model, shapes, rows, shapes.answer)
        return {**found, **utilisation(operations, found["seconds"], card)}

    return steps.fitting(shapes.sft_rows, attempt)


def grpo(model: PeftModel, shapes: Shapes, device: torch.device, card: dict[str, Any]) -> dict[str, Any] | None:
    """Stage 2: completions sampled by transformers' generate, and an update on them with random rewards."""
    optimizer = steps.optimizer_of(model)

    def rollout(rows: int) -> dict[str, Any]:
        prompts = random_batch(shapes, rows, 0, device)
        steps.checkpointed(model, False)
        model.eval()
        try:
            with mixed(device, shapes):
                # Once: a warm-up would cost as much again, and of a thousand tokens the first matter little.
                found = timed(lambda: steps.sample(model, prompts, shapes), device, 1, warm=0)
        finally:
            model.train()
            if shapes.checkpointing:
                steps.checkpointed(model, True)
        return {**found, "tokens_per_second": rows * shapes.new_tokens / found["seconds"]}

    generation = steps.fitting(shapes.completions, rollout)
    torch.manual_seed(0)
    advantages = steps.advantages_of(torch.rand(shapes.completions, device=device), shapes.group)

    def update(rows: int) -> dict[str, Any]:
        # One full window: every completion of the rollout, `rows` at a time, then the optimizer. Completions have the mean
        # length of a verdict, padded to the longest, which is the limit.
        batch = random_batch(shapes, rows, shapes.new_tokens, device)
        mask = torch.zeros(rows, shapes.new_tokens, device=device)
        mask[:, : shapes.answer] = 1
        mask[0] = 1
        windows = max(1, shapes.completions // rows)

        def step() -> None:
            for window in range(windows):
                gain = advantages[window * rows :][:rows]
                with mixed(device, shapes):
                    loss = steps.grpo_loss(model, batch, gain, mask, float(mask.sum()) * windows, shapes)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        found = timed(step, device, 1)
        operations = training_operations(model, shapes, rows, shapes.new_tokens)
        if shapes.beta:
            operations += sum(forward_operations(model, shapes, rows, shapes.new_tokens))
        tokens = windows * batch["input_ids"].numel()
        return {
            **found,
            "completions": windows * rows,
            "tokens_per_second": tokens / found["seconds"],
            **utilisation(windows * operations, found["seconds"], card),
        }

    learnt = steps.fitting(shapes.update_rows, update)
    if generation is None or learnt is None:
        return None
    return {"generation": generation, "update": learnt}


def tiny_losses(tiny: Shapes, device: torch.device) -> dict[str, Any]:
    """Both losses of a small random model, fp32, on the CPU and on the device: the same weights, the same batch."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    shapes = dataclasses.replace(tiny, prompt_text=40, answer=24, beta=0.05, checkpointing=False)
    cpu = torch.device("cpu")
    model = steps.random_model(shapes, cpu, torch.float32).eval()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    found: dict[str, dict[str, float]] = {"sft": {}, "grpo": {}}
    for place in (cpu, device):
        batch = random_batch(shapes, 4, shapes.answer, place)
        gain, mask = torch.tensor([1.0, -1.0, 0.5, -0.5], device=place), torch.ones(4, shapes.answer, device=place)
        mask[1, 7:] = 0
        model.to(place)
        with torch.no_grad():
            # From other probabilities than today's, so that the clipping of ratios is at work.
            old = steps.log_probabilities(model, batch, shapes.answer) + 0.3 * torch.sin(torch.arange(24, device=place))
            losses = {
                "sft": steps.sft_loss(model, batch, shapes.answer),
                "grpo": steps.grpo_loss(model, batch, gain, mask, float(mask.sum()), shapes, old),
            }
        for name, loss in losses.items():
            found[name][str(place)] = float(loss)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
    worst = max(abs(values["cpu"] - values[str(device)]) / abs(values["cpu"]) for values in found.values())
    return {**found, "relative_difference": worst, "tolerance": TOLERANCE, "agree": worst < TOLERANCE}


def estimate(model: PeftModel, shapes: Shapes, rows: int) -> dict[str, int] | str:
    """`make plan`'s memory of a stage 1 step by part, in bytes, or why there is none."""
    try:
        memory, hardware = import_module("plan.memory"), import_module("plan.hardware")
        activations = import_module("plan.activations")
    except ImportError as error:
        return f"no estimate: {error}"
    options = {
        "optim": "adamw_torch",
        "bf16": shapes.dtype == "bfloat16",
        "gradient_checkpointing": shapes.checkpointing,
        "use_peft": True,
        "use_bnb_nested_quant": False,
        "load_in_4bit": False,
    }
    batch = activations.Batch(
        rows, shapes.prompt + shapes.answer, rows * shapes.answer, rows * PICTURES, shapes.patches
    )
    parts: dict[str, int] = memory.training_bytes(model, options, hardware.Engine("single"), 1, batch)
    return parts


def build(shapes: Shapes, device: torch.device) -> tuple[PeftModel, dict[str, Any]]:
    """The recipe's model on the device, and how large it is and how long it took."""
    start = time.perf_counter()
    model = steps.random_model(shapes, device, getattr(torch, shapes.dtype))
    synchronise(device)
    counts = [parameter.numel() for parameter in model.parameters()]
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    said = {"parameters": sum(counts), "trained": trained, "seconds": time.perf_counter() - start}
    return model, {**said, "attention": model.base_model.model.config._attn_implementation}
