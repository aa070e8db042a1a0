"""Time, memory and arithmetic of a step, and what the card could do at best."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel

from tools.gpu_check.shapes import PICTURES, Shapes

# Dense bf16 operations a second as the makers state them, by a part of the card's name.
STATED = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "RTX A6000": 155e12,
    "L4": 121e12,
}
ATTENTION = re.compile(r"flash_attn|scaled_dot_product|fmha|attention_forward", re.IGNORECASE)


def stated_speed(name: str) -> float | None:
    """The stated operations a second of the card `name`; None for an unknown one."""
    return next((speed for part, speed in STATED.items() if part in name), None)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], Any], device: torch.device, repeats: int, warm: int = 1) -> dict[str, Any]:
    """Median seconds of `work`, all repeats, and the peak of allocated bytes (None on a CPU); `warm` calls are not counted."""
    for _ in range(warm):
        work()
    synchronise(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"seconds": statistics.median(seconds), "all_seconds": seconds, "peak_bytes": peak}


def matmul_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of one large matrix product: what this card reaches at best."""
    side = 8192 if device.type == "cuda" else 512
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    found = timed(lambda: a @ b, device, repeats=10, warm=3)
    return float(2 * side**3 / found["seconds"])


def attention_kernels(work: Callable[[], Any], device: torch.device) -> list[str]:
    """Names of the attention operators and kernels that `work` runs, those with most time first."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        work()
        synchronise(device)
    found = [event for event in profile.key_averages() if ATTENTION.search(event.key)]
    found.sort(key=lambda event: -(event.self_device_time_total or event.self_cpu_time_total))
    return [event.key[:120] for event in found][:6]


def forward_operations(model: PeftModel, shapes: Shapes, rows: int, answer: int) -> tuple[float, float]:
    """(of the language model, of the vision tower) in one forward pass: two for each weight and position, and attention.

    The output layer counts at the answer's positions alone; attention of the language model as causal.
    """
    base: Any = model.base_model.model
    text, vision = shapes.config.text_config, shapes.config.vision_config
    layers = sum(
        p.numel() for n, p in base.model.language_model.layers.named_parameters() if p.ndim == 2 and "lora_" not in n
    )
    tower = sum(p.numel() for p in base.model.visual.parameters() if p.ndim > 1)
    tokens = shapes.prompt + answer
    language = 2.0 * layers * rows * tokens + 2.0 * base.lm_head.weight.numel() * rows * answer
    language += 2.0 * text.num_hidden_layers * text.num_attention_heads * text.head_dim * rows * tokens**2
    pictures = rows * PICTURES
    seeing = (
        2.0 * tower * pictures * shapes.patches + 4.0 * vision.depth * vision.hidden_size * pictures * shapes.patches**2
    )
    return language, seeing


def training_operations(model: PeftModel, shapes: Shapes, rows: int, answer: int) -> float:
    """Operations that a LoRA step needs: forward, and backward to the activations alone; nothing for recomputing.

    The vision tower is frozen below everything trained, so it has no backward pass.
    """
    language, seeing = forward_operations(model, shapes, rows, answer)
    return 2 * language + seeing
