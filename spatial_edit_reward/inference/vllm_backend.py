"""Completions through vLLM on this machine's GPUs, with its prefix and multimodal caches, whose hit rates are printed.

Written for vllm 0.31 (`LLM`, `SamplingParams`, `LoRARequest`, `LLM.get_metrics`); tests run it with vLLM's CPU build.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import ProcessorMixin

from spatial_edit_reward import Spec
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.model import load_processor, vision_token_ids
from spatial_edit_reward.inference.request import (
    MAX_IMAGES,
    Backend,
    Request,
    Response,
    Sampling,
    batched,
    max_model_len,
)

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for


def make_prompts(requests: Sequence[Request], processor: ProcessorMixin, spec: Spec) -> list[dict[str, Any]]:
    """vLLM's prompts: the chat as text, with one placeholder an image, which vLLM expands itself, and the images."""
    return [
        {
            "prompt": processor.apply_chat_template(
                prompt_messages(request.task, request.instruction, spec, len(request.images)),
                add_generation_prompt=True,
            ),
            "multi_modal_data": {"image": request.images},
        }
        for request in requests
    ]


def open_vllm(
    name: str, adapter: Path | None, spec: Spec, batch_size: int, sampling: Sampling | None, seed: int
) -> Backend:
    """The checkpoint `name` in an engine of this process. Raises UserError where vLLM or the model is missing."""
    try:
        from vllm import LLM, SamplingParams
        from vllm.lora.request import LoRARequest
    except ImportError as error:
        raise UserError(f"--backend vllm needs vLLM and a GPU: pip install '.[vllm]' ({error})") from None
    processor = load_processor(name, spec)
    lora: dict[str, Any] = {}
    if adapter is not None:
        rank = json.loads((adapter / "adapter_config.json").read_bytes())["r"]
        lora = {"enable_lora": True, "max_lora_rank": next(size for size in LORA_RANKS if size >= rank)}
    engine = LLM(
        name,
        max_model_len=max_model_len(spec),
        limit_mm_per_prompt={"image": MAX_IMAGES, "video": 0},
        mm_processor_kwargs={"size": {"shortest_edge": spec.pixels.min, "longest_edge": spec.pixels.max}},
        enable_prefix_caching=True,
        generation_config="vllm",  # not the checkpoint's own sampling
        disable_log_stats=False,  # counts the cache's hits
        **lora,
    )
    # Not to be written: they stand for pixels. A bias, since sampling has no list of suppressed tokens.
    bias = dict.fromkeys(vision_token_ids(processor), -100.0)
    how = {"temperature": sampling.temperature, "top_p": sampling.top_p} if sampling else {"temperature": 0.0}
    lora_request = None if adapter is None else LoRARequest("adapter", 1, str(adapter))

    def generate(requests: Iterable[Request]) -> Iterator[tuple[Request, Response]]:
        # In the order they come in: candidates of one source stand together and share the prefix that ends with its image.
        for window in batched(requests, 16 * batch_size):
            params = [
                SamplingParams(**how, max_tokens=spec.max_new_tokens, seed=seed + request.sample, logit_bias=bias)
                for request in window
            ]
            prompts = make_prompts(window, processor, spec)
            outputs = engine.generate(prompts, params, use_tqdm=False, lora_request=lora_request)
            for request, output in zip(window, outputs, strict=True):
                done = output.outputs[0]
                truncated = done.finish_reason == "length"
                yield request, Response(done.text, truncated, None, len(output.prompt_token_ids), len(done.token_ids))
        print("; ".join(hit_rates(engine.get_metrics())), file=sys.stderr)

    return generate


def hit_rates(metrics: Sequence[Any]) -> list[str]:
    """The share of tokens found in the prefix cache and of images found in the multimodal cache, in words."""
    totals: dict[str, int] = {}
    for metric in metrics:  # one of each name for every engine
        if isinstance(value := getattr(metric, "value", None), int):
            totals[metric.name] = totals.get(metric.name, 0) + value
    lines = []
    for cache, unit in (("prefix", "tokens"), ("mm", "images")):
        hits, queries = (totals.get(f"vllm:{cache}_cache_{kind}", 0) for kind in ("hits", "queries"))
        lines.append(f"vLLM's {cache} cache had {hits:,} of {queries:,} {unit} ({hits / max(1, queries):.1%})")
    return lines
