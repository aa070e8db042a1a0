"""The tiny base's tokenizer: a byte-level BPE with Qwen's splitting rule and special tokens, trained on our own sentences."""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2TokenizerFast

from data.synthetic.generate import group_rows
from spatial_edit_reward import Spec, render
from tools.tiny_base.grounding import conversation

VOCABULARY = 1024

# Qwen's splitting rule: contractions, words with one leading sign, single digits, runs of signs, white space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def sentences(spec: Spec, groups: int) -> Iterator[str]:
    """Text with the words the model will read and write. Only the merges come from it: no weight sees the verdicts here."""
    for number in range(groups):
        for row in group_rows(seed=0, number=number, image_size=64):
            yield spec.prompt(row["task"], row["instruction"])
            yield render(row["task"], row["reference"])
        for turn in conversation(seed=0, number=number, side=64).turns:
            yield f"assistant\n{turn.question}\nuser\n{turn.answer}"


def train_tokenizer(spec: Spec, groups: int = 3000) -> Qwen2TokenizerFast:
    """A tokenizer of VOCABULARY entries, special tokens included."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(spec, groups), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return Qwen2TokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        model_max_length=4096,
    )
