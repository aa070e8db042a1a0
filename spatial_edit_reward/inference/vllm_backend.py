"""Verdicts through vLLM on this machine's GPUs, with its prefix and multimodal caches, and their hit rates said.

Written from the interface of vllm 0.31 (`LLM`, `SamplingParams`, `LLM.get_metrics`).
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from transformers import ProcessorMixin

from spatial_edit_reward import Spec
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.model import load_processor, vision_token_ids
from spatial_edit_reward.inference.request import Backend, Request, Response

MOST_IMAGES = 8  # of one question: several sources and the edit
TEXT_TOKENS = 1024  # room for the prompt's own text


def prompts_of(questions: Sequence[Request], processor: ProcessorMixin, spec: Spec) -> list[dict[str, Any]]:
    """vLLM's prompts: the chat as text, with one placeholder a picture, which vLLM expands itself, and the pictures."""
    return [
        {
            "prompt": processor.apply_chat_template(
                prompt_messages(question.task, question.instruction, spec, len(question.images)),
                add_generation_prompt=True,
            ),
            "multi_modal_data": {"image": question.images},
        }
        for question in questions
    ]


def open_vllm(model_name: str, spec: Spec, temperature: float) -> Backend:
    """The checkpoint `model_name` in an engine of this process. Raises UserError where vLLM or the model is missing."""
    try:
        from vllm import LLM, SamplingParams
    except ImportError as error:
        raise UserError(f"--backend vllm needs vLLM and a GPU: pip install '.[vllm]' ({error})") from None
    processor = load_processor(model_name, spec)
    image_tokens = spec.pixels.max // spec.pixels.multiple**2
    engine = LLM(
        model_name,
        max_model_len=MOST_IMAGES * image_tokens + TEXT_TOKENS + spec.max_new_tokens,
        limit_mm_per_prompt={"image": MOST_IMAGES, "video": 0},
        mm_processor_kwargs={"size": {"shortest_edge": spec.pixels.min, "longest_edge": spec.pixels.max}},
        enable_prefix_caching=True,
        generation_config="vllm",  # not the checkpoint's own sampling
        disable_log_stats=False,  # counts the cache's hits
    )
    # Not to be written: they stand for pixels. A bias, since sampling has no list of suppressed tokens.
    bias = dict.fromkeys(vision_token_ids(processor), -100.0)

    def ask(questions: Sequence[Request]) -> Iterator[tuple[Request, Response]]:
        # In the order they come in: candidates of one source stand together and share the prefix that ends with its picture.
        prompts = prompts_of(questions, processor, spec)
        how = [
            SamplingParams(
                temperature=temperature, max_tokens=spec.max_new_tokens, seed=question.sample, logit_bias=bias
            )
            for question in questions
        ]
        for question, output in zip(questions, engine.generate(prompts, how, use_tqdm=False), strict=True):
            said = output.outputs[0]
            truncated = said.finish_reason == "length"
            yield question, Response(said.text, truncated, None, len(output.prompt_token_ids), len(said.token_ids))

    atexit.register(lambda: print("; ".join(hit_rates(engine.get_metrics())), file=sys.stderr))
    return ask


def hit_rates(metrics: Sequence[Any]) -> list[str]:
    """The share of tokens found in the prefix cache and of pictures found in the multimodal cache, in words."""
    totals: dict[str, int] = {}
    for metric in metrics:  # one of each name for every engine
        if isinstance(value := getattr(metric, "value", None), int):
            totals[metric.name] = totals.get(metric.name, 0) + value
    lines = []
    for cache, what in (("prefix", "tokens"), ("mm", "pictures")):
        hits, queries = (totals.get(f"vllm:{cache}_cache_{kind}", 0) for kind in ("hits", "queries"))
        lines.append(f"vLLM's {cache} cache had {hits:,} of {queries:,} {what} ({hits / max(1, queries):.1%})")
    return lines
