"""The plan's estimate of memory against bytes measured on steps of random models: tiny and mid-size, LoRA and all weights.

    python -m tools.bench.plan_memory [--dtype float32] [--device cpu]

Weights, gradients and optimizer state are counted after a step; activations are the storages that are still there at the end
of the forward pass, each counted once, without weights and inputs. On CUDA the sum of all parts is also compared with the
allocator's peak.
"""

from __future__ import annotations

import argparse
import gc
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig
from trl import ModelConfig, get_peft_config
from trl.trainer.utils import add_fused_lm_head

from tools.plan.activations import Batch
from tools.plan.hardware import Engine
from tools.plan.memory import training_bytes
from tools.plan.model import meta_model

TINY = Path(__file__).parents[2] / "recipes" / "tiny" / "base" / "config.json"
MODULES = [r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"]


def mid_size() -> PreTrainedConfig:
    """Qwen3-VL at 39 M parameters: wide enough that no constant term matters, small enough for a CPU."""
    config = AutoConfig.from_pretrained(TINY)
    config.text_config.update(
        {
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "vocab_size": 8192,
        }
    )
    config.vision_config.update(
        {
            "hidden_size": 256,
            "intermediate_size": 1024,
            "depth": 6,
            "out_hidden_size": 512,
            "deepstack_visual_indexes": [1, 3, 5],
        }
    )
    config.text_config.rope_parameters["mrope_section"] = [12, 10, 10]
    return config


def stage_options(dtype: str, bf16: bool, peft: bool, checkpointing: bool) -> dict[str, Any]:
    """The options of a stage that its memory depends on."""
    return {
        "dtype": dtype,
        "bf16": bf16,
        "gradient_checkpointing": checkpointing,
        "optim": "adamw_torch",
        "use_peft": peft,
        "lora_r": 32,
        "lora_alpha": 64,
        "lora_dropout": 0.0,
        "lora_target_modules": MODULES,
        "load_in_4bit": False,
        "use_bnb_nested_quant": False,
    }


def inputs_of(config: PreTrainedConfig, batch: Batch, device: str) -> dict[str, torch.Tensor]:
    """Random padded sequences, each with its images near its start; the first one is padded on the left."""
    generator = torch.Generator().manual_seed(0)
    vision = config.vision_config
    side = int(batch.patches**0.5)
    if side * side != batch.patches or side % vision.spatial_merge_size:
        raise ValueError("patches must be a square of whole merged patches")
    each = batch.patches // vision.spatial_merge_size**2
    ids = torch.randint(20, 200, (batch.sequences, batch.tokens), generator=generator)
    for image in range(batch.images // batch.sequences):
        start = 8 + image * (each + 1)  # a token of text stands between two images
        ids[:, start : start + each] = config.image_token_id
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": torch.where(ids == config.image_token_id, -100, ids),
        "mm_token_type_ids": (ids == config.image_token_id).int(),
        "pixel_values": torch.randn(batch.images * batch.patches, values, generator=generator),
        "image_grid_thw": torch.tensor([[1, side, side]] * batch.images),
    }
    return {name: tensor.to(device) for name, tensor in inputs.items()}


@dataclass(frozen=True)
class Measured:
    """Bytes of each part, and the allocator's peak (0 on a CPU)."""

    parts: dict[str, int]
    peak: int


def unique_bytes(tensors: list[torch.Tensor], without: list[torch.Tensor] | None = None) -> int:
    """Bytes of the tensors' storages, each once, those of `without` left out."""
    known = {tensor.untyped_storage().data_ptr() for tensor in without or ()}
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(size for pointer, size in storages.items() if pointer not in known)


def live_tensors() -> list[torch.Tensor]:
    """Every tensor of this process that Python knows, without those of FakeTensorMode."""
    return [one for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter)]


def measured(config: PreTrainedConfig, options: dict[str, Any], batch: Batch, device: str) -> Measured:
    """What one step of training really takes: forward, backward, AdamW."""
    torch.manual_seed(0)
    dtype = getattr(torch, options["dtype"])
    model: Any = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa").to(device)
    base = model
    adapter = get_peft_config(ModelConfig(**{n: options[n] for n in ModelConfig.__dataclass_fields__ if n in options}))
    if adapter is not None:
        model = get_peft_model(model, adapter)
    model.train()
    if options["gradient_checkpointing"]:
        base.gradient_checkpointing_enable({"use_reentrant": False})
        if isinstance(model, PeftModel):
            model.enable_input_require_grads()
    add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))
    inputs = inputs_of(config, batch, device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    # Weak references: checkpointing saves a frozen tower's inputs too, but lets go of them.
    saved: list[weakref.ref[torch.Tensor]] = []
    before = live_tensors()

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(weakref.ref(tensor))
        return tensor

    with (
        saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast(device, torch.bfloat16, enabled=options["bf16"]),
    ):
        loss = model(**inputs, fused_lm_head=True).loss
    weights = [*model.parameters(), *model.buffers()]
    # Checkpointing also holds on to what all blocks share, which autograd does not save.
    alive = [*live_tensors(), *(tensor for reference in saved if (tensor := reference()) is not None)]
    activations = unique_bytes(alive, before)
    del alive, before
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    optimizer.step()
    moments = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    parts = {
        "weights": unique_bytes(weights),
        "gradients": unique_bytes(gradients),
        "optimizer": unique_bytes(moments),
        "activations": activations,
    }
    return Measured(parts, torch.cuda.max_memory_allocated() if device == "cuda" else 0)


def compared(
    config: PreTrainedConfig, options: dict[str, Any], batch: Batch, device: str
) -> tuple[dict[str, tuple[int, int]], int, int]:
    """Part -> (estimated, measured) bytes; the estimate's sum; the allocator's peak."""
    estimate = training_bytes(meta_model(config, options), options, Engine("single"), 1, batch)
    real = measured(config, options, batch, device)
    return {part: (estimate[part], size) for part, size in real.parts.items()}, sum(estimate.values()), real.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="default: %(default)s")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cpu", "cuda"], default=device, help="default: cuda where there is a GPU")
    arguments = parser.parse_args()
    tiny = AutoConfig.from_pretrained(TINY)
    for name, config, batch in (
        ("tiny", tiny, Batch(8, 256, 8 * 256, 16, 64)),
        ("mid-size", mid_size(), Batch(4, 256, 4 * 256, 8, 64)),
    ):
        for peft in (True, False):
            for checkpointing in (False, True):
                options = stage_options(arguments.dtype, arguments.dtype == "bfloat16", peft, checkpointing)
                parts, total, peak = compared(config, options, batch, arguments.device)
                case = f"{name}, {'LoRA' if peft else 'all'}, {'checkpointing' if checkpointing else 'all kept'}"
                ratios = ", ".join(f"{part} {est / max(real, 1):.3f}" for part, (est, real) in parts.items())
                print(f"{case:32} estimated / measured: {ratios}" + (f"; peak {total / peak:.3f}" if peak else ""))


if __name__ == "__main__":
    main()
