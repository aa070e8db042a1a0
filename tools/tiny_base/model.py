"""The tiny base before training: Qwen3-VL's architecture, tokenizer, processor and chat template at 1 M parameters."""

from __future__ import annotations

from transformers import (
    GenerationConfig,
    Qwen2TokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

from pipeline.qwen import qwen_processor
from spatial_edit_reward import Spec
from spatial_edit_reward.spec import Pixels

SIDE = 64
PATCH = 8
MERGE = 2
CELL = PATCH * MERGE  # side in pixels of what one token shows
INITIALIZER_RANGE = 0.05  # widths of 64 and 128 learn slowly from the usual 0.02
SPEC = Spec(pixels=Pixels(min=256, max=SIDE * SIDE, multiple=CELL), max_new_tokens=320)


def tiny_config(tokenizer: Qwen2TokenizerFast) -> Qwen3VLConfig:
    """Qwen3-VL's configuration at 1 M parameters: DeepStack and interleaved M-RoPE included."""
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    return Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "initializer_range": INITIALIZER_RANGE,
            "intermediate_size": 320,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 64,
            "initializer_range": INITIALIZER_RANGE,
            "intermediate_size": 160,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": 128,
            "num_position_embeddings": (SIDE // PATCH) ** 2,
            "deepstack_visual_indexes": [1],
        },
        tie_word_embeddings=True,
        dtype="float32",
        **ids,
    )


def tiny_processor(tokenizer: Qwen2TokenizerFast) -> Qwen3VLProcessor:
    """Qwen3-VL's processor with the tiny patch size and the spec's pixel limits."""
    return qwen_processor(tokenizer, PATCH, SPEC.pixels)


def tiny_model(tokenizer: Qwen2TokenizerFast) -> Qwen3VLForConditionalGeneration:
    """A model with random weights and a generation configuration that stops where Qwen's does."""
    model = Qwen3VLForConditionalGeneration(tiny_config(tokenizer))
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id], pad_token_id=tokenizer.pad_token_id
    )
    return model
