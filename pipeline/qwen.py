"""Qwen3-VL's own tokenizer and processor without the Hub: from the BPE ranks in the package `dashscope` (Apache-2.0)."""

from __future__ import annotations

import base64
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from spatial_edit_reward.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    from spatial_edit_reward.spec import Pixels

# Ids 151643 to 151668, as in the tokenizer_config.json of Qwen3: what is not special is kept where special tokens are skipped.
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
ADDED = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
)


def _halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that byte-pair encoding joins last to make `token`."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        i = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], len(ranks)))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


@cache
def qwen_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer of Qwen3-VL, made in 3 seconds: 151,643 tokens by their ranks and 26 added ones.

    Raises UserError where `dashscope` is not installed.

    Example::

        qwen_tokenizer()("a verdict")["input_ids"]
    """
    package = find_spec("dashscope")  # importing it would import its web client
    if package is None or package.origin is None:
        raise UserError("Qwen's tokenizer needs dashscope: pip install -c constraints.txt dashscope")
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    words = Path(package.origin).with_name("resources").joinpath("qwen.tiktoken").read_bytes().split()
    ranks = {base64.b64decode(token): int(rank) for token, rank in zip(words[::2], words[1::2], strict=True)}
    letters = bytes_to_unicode()

    def text(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = [_halves(token, ranks) for token in ranks if len(token) > 1]
    tokenizer = Qwen2Tokenizer(
        vocab={text(token): rank for token, rank in ranks.items()},
        merges=[(text(left), text(right)) for left, right in merges],
        unk_token=None,
        model_max_length=262144,
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in ADDED])
    # Only now: the class gives the next free ids to the tokens it is made with.
    tokenizer.eos_token, tokenizer.extra_special_tokens = "<|im_end|>", list(SPECIAL[1:])
    return tokenizer


def qwen_processor(tokenizer: PreTrainedTokenizerBase, patch_size: int, pixels: Pixels) -> ProcessorMixin:
    """Qwen3-VL's processor with `tokenizer`; `pixels`: the areas of an image, from `verdict.json`.

    The chat template is TRL's copy of Qwen's.
    """
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    template = files("trl").joinpath("chat_templates/qwen3_vl.jinja").read_text(encoding="utf-8")
    tokenizer.chat_template = template
    shared = {
        "patch_size": patch_size,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"shortest_edge": pixels.min, "longest_edge": pixels.max},
    }
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shared),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**shared),
        chat_template=template,
    )
