"""Qwen3-VL's tokenizer from the ranks that Alibaba publishes: known ids, the configuration's ids, any text there and back."""

import json
import unicodedata

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def tokenizer():
    from pipeline.qwen import qwen_tokenizer

    return qwen_tokenizer()


def test_special_tokens_have_the_ids_of_the_recipes_configuration(tokenizer):
    config = json.loads((ROOT / "recipes" / "spatialreward-8b" / "config.json").read_text())
    ids = {
        "<|image_pad|>": config["image_token_id"],
        "<|video_pad|>": config["video_token_id"],
        "<|vision_start|>": config["vision_start_token_id"],
        "<|vision_end|>": config["vision_end_token_id"],
        "<|im_end|>": config["text_config"]["eos_token_id"],
        "<|endoftext|>": config["text_config"]["bos_token_id"],
    }
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in ids} == ids
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"
    assert len(tokenizer) == 151669 <= config["text_config"]["vocab_size"]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello, world!", [9707, 11, 1879, 0]),
        ("<|im_start|>user\n", [151644, 872, 198]),
        ("<think>\n</think>", [151667, 198, 151668]),
        ("125, 406", [16, 17, 20, 11, 220, 19, 15, 21]),  # digit by digit
    ],
)
def test_known_ids(tokenizer, text, ids):
    assert tokenizer(text)["input_ids"] == ids and tokenizer.decode(ids) == text


def test_the_same_ids_as_tiktoken_has_for_the_same_ranks(tokenizer):
    import base64
    from importlib.util import find_spec
    from pathlib import Path

    import tiktoken
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    lines = (
        Path(find_spec("dashscope").origin)
        .with_name("resources")
        .joinpath("qwen.tiktoken")
        .read_text(encoding="utf-8")
        .split()
    )
    ranks = {base64.b64decode(token): int(rank) for token, rank in zip(lines[::2], lines[1::2], strict=True)}
    theirs = tiktoken.Encoding("qwen", pat_str=PRETOKENIZE_REGEX, mergeable_ranks=ranks, special_tokens={})
    # Without the docs' examples of special tokens, which are single ids to the tokenizer alone.
    texts = [file.read_text(encoding="utf-8").replace("<|", "< |") for file in sorted((ROOT / "docs").glob("*.md"))]
    texts += ["把杯子换成蓝色花瓶，然后删除背景。", "ürün fiyatı 1234.5 değiştir 🎨👩‍🚀 ภาษาไทย", " " * 37 + "\n\n\t x"]
    for text in texts:
        normal = unicodedata.normalize("NFC", text)
        ids = theirs.encode(normal)
        assert tokenizer(text)["input_ids"] == ids and tokenizer.decode(ids) == normal


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    assert saved.get_vocab() == tokenizer.get_vocab() and saved.all_special_tokens == tokenizer.all_special_tokens
    text = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Make it 20 % brighter.<|im_end|>\n"
    assert saved(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_the_processor_writes_the_published_prompt(tokenizer):
    from PIL import Image

    from pipeline.qwen import qwen_processor
    from spatial_edit_reward.spec import Pixels

    processor = qwen_processor(tokenizer, 16, Pixels(min=4096, max=262144, multiple=32))
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Judge."}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    assert prompt == f"<|im_start|>user\n{image}{image}Judge.<|im_end|>\n<|im_start|>assistant\n"
    images = [Image.new("RGB", (512, 512)), Image.new("RGB", (64, 96))]
    ids = processor(text=[prompt], images=[images], return_tensors="pt")["input_ids"][0].tolist()
    assert ids.count(151655) == 256 + 6  # a token for each 32 x 32 pixels
