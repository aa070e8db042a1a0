"""The base of a rehearsal: Qwen3-VL at a recipe's configuration with random weights, all of it or few and narrow layers.

    python -m tools.rehearse.base recipes/NAME --weights shrunk --output_dir Qwen/Qwen3-VL-8B-Instruct

The vocabulary, the patches, the size of a head and the dtype stay. Nothing is learned: `generation_config.json` holds a bias
towards the next token of some verdicts of the training rows, so that completions end, differ, and earn something. vLLM does
not read it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig, PreTrainedConfig

from data.rows import as_decimals, load_rows
from pipeline.qwen import qwen_processor, qwen_tokenizer
from pipeline.recipe import read_yaml
from spatial_edit_reward import TASKS, Spec, load_spec
from spatial_edit_reward.chat import completion_messages, prompt_messages
from spatial_edit_reward.errors import one_line_errors
from tools.rehearse.changes import find_config

LAYERS, WIDTH, HEADS = 3, 32, 4
WIDTH_4BIT = 64  # bitsandbytes shares a scale among 64 numbers of a row, and fails on a CPU where a row is shorter
VERDICTS = 3  # of each task
CONTEXT = 6  # tokens that the next one follows from
BIAS = 40.0  # on a logit; a random model's own are below 1


def shrink(config: PreTrainedConfig, width: int) -> None:
    """Makes the layers of `config` few and narrow; a head of the language model keeps its size, as positions need it."""
    text, vision = config.text_config, config.vision_config
    groups = text.num_attention_heads // text.num_key_value_heads
    text.num_hidden_layers = min(text.num_hidden_layers, LAYERS)
    text.hidden_size = vision.hidden_size = vision.out_hidden_size = width
    text.intermediate_size = vision.intermediate_size = 3 * width
    text.num_attention_heads, text.num_key_value_heads, vision.num_heads = HEADS, max(1, HEADS // groups), HEADS
    vision.depth = min(vision.depth, LAYERS)
    vision.deepstack_visual_indexes = list(range(min(vision.depth, len(vision.deepstack_visual_indexes))))


def common_end(sequences: Sequence[Sequence[int]], at_most: int) -> list[int]:
    """The tokens that all `sequences` end with."""
    count = 0
    while count < at_most and len({sequence[-count - 1] for sequence in sequences if len(sequence) > count}) == 1:
        count += 1
    return list(sequences[0][len(sequences[0]) - count :])


def verdict_bias(rows: Iterable[dict[str, Any]], processor: Any, spec: Spec) -> list[list[Any]]:
    """transformers' `sequence_bias`: [tokens, bias] for the step from some tokens to the next in verdicts of `rows`.

    Where all prompts of a task end alike and those of the other differ, as the published ones do, each gets its own verdicts.
    """
    examples: dict[str, list[tuple[list[int], list[int], bool]]] = {task: [] for task in TASKS}
    for row in rows:
        prompt = prompt_messages(row["task"], row["instruction"], spec)
        texts = [
            processor.apply_chat_template(prompt, add_generation_prompt=True),
            processor.apply_chat_template(prompt + completion_messages(row["task"], as_decimals(row["reference"]))),
        ]
        before, after = (processor.tokenizer(text)["input_ids"] for text in texts)
        answer = after[len(before) : -1]  # without the line break after the end
        examples[row["task"]].append((before, answer, not row["reference"]["edit_region"]))
    shared = common_end([before for of_task in examples.values() for before, *_ in of_task], CONTEXT)
    bias: dict[tuple[int, ...], float] = {}
    for of_task in examples.values():
        start = common_end([before for before, *_ in of_task], 4 * CONTEXT)
        strength = BIAS * (2 if len(start) > len(shared) else 1)
        # those with regions first, the shortest first
        for _, answer, _ in sorted(of_task, key=lambda example: (example[2], len(example[1])))[:VERDICTS]:
            for i, token in enumerate(answer):
                if i < CONTEXT:
                    bias[(*start, *answer[:i], token)] = strength
                else:
                    bias[(*answer[i - CONTEXT : i], token)] = BIAS
    return [[list(tokens), strength] for tokens, strength in bias.items() if 0 not in tokens]  # 0 is refused


def make_base(recipe: Path, shrunk: bool, output: Path, seed: int = 0) -> None:
    """Writes the checkpoint, with Qwen's tokenizer and processor, into `output`."""
    config = AutoConfig.from_pretrained(find_config(recipe))
    if shrunk:
        shrink(config, WIDTH_4BIT if read_yaml(recipe / "sft.yaml").get("load_in_4bit") else WIDTH)
    data = Path("runs") / recipe.name / "data"
    spec = load_spec(data)
    processor = qwen_processor(qwen_tokenizer(), config.vision_config.patch_size, spec.pixels)
    stored = config.dtype or config.get_text_config().dtype or torch.float32
    torch.manual_seed(seed)
    with PartialState(cpu=not torch.cuda.is_available()).device:
        model = AutoModelForImageTextToText.from_config(config, dtype=stored)
    ends = [processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id]
    model.generation_config = GenerationConfig(
        eos_token_id=ends,
        pad_token_id=ends[-1],
        sequence_bias=verdict_bias(load_rows(data / "train.parquet", spec), processor, spec),
    )
    model.save_pretrained(output)
    processor.save_pretrained(output)
    print(f"{output}: {model.num_parameters():,} random parameters, {stored}")


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.rehearse.base", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--weights", choices=("shrunk", "random-full"), default="shrunk")
    parser.add_argument("--output_dir", type=Path, required=True)
    arguments = parser.parse_args()
    make_base(arguments.recipe, arguments.weights == "shrunk", arguments.output_dir)


if __name__ == "__main__":
    main()
