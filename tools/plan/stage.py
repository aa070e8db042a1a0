"""One stage of a recipe as it would run: its options with their defaults, its rows, its steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from trl import GRPOConfig, ModelConfig, SFTConfig

from grpo.__main__ import RewardArguments
from pipeline.recipe import kind_of, resolve_options
from pipeline.values import check_values, fields_of
from sft.__main__ import DataArguments
from spatial_edit_reward import Spec
from spatial_edit_reward.errors import UserError
from tools.plan.activations import Batch
from tools.plan.rows import Rows, from_file, from_spec

TYPES: dict[str, tuple[type, ...]] = {
    "sft": (SFTConfig, DataArguments, ModelConfig),
    "grpo": (GRPOConfig, RewardArguments, ModelConfig),
}
SPLIT: dict[str, Literal["train", "rl"]] = {"sft": "train", "grpo": "rl"}


@dataclass(frozen=True)
class Stage:
    """`written`: what the recipe and the command line set; `options`: with the defaults of every other field."""

    file: Path
    kind: str
    written: dict[str, Any]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return self.file.stem


def stage_files(recipe: Path) -> list[Path]:
    """The recipe's files of training stages, in the order they run. Raises UserError where there are none."""
    files = [file for kind in TYPES for file in sorted(recipe.glob(f"{kind}*.yaml"))]
    if not files:
        raise UserError(f"{recipe}: no sft.yaml or grpo.yaml there")
    return files


def load_stage(file: Path, overrides: Mapping[str, Any]) -> Stage:
    """The stage that `file` describes, with those of the overrides that it has a field for. Raises UserError."""
    kind = kind_of(file)
    types = TYPES[kind]
    fields = fields_of(types)
    own = {name: value for name, value in overrides.items() if name in fields}
    written = {**resolve_options(file, types), **check_values(Path("command line"), own, types)}
    options = {}
    for name, (field, _) in fields.items():
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else None
        options[name] = field.default if field.default is not dataclasses.MISSING else default
    options |= written
    if options["bf16"] is None:
        options["bf16"] = not options["fp16"]
    missing = [name for name in ("model_name_or_path", "data_dir", "output_dir") if not options[name]]
    if missing:
        raise UserError(f"{file}: {missing[0]} is missing")
    if kind == "grpo":
        options["steps_per_generation"] = options["steps_per_generation"] or options["gradient_accumulation_steps"]
    else:
        options |= {"beta": 0.0, "use_vllm": False}
    return Stage(file, kind, written, options)


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`--name value` pairs as YAML values. Raises UserError for anything else, or a name that no stage has."""
    names, values = arguments[::2], arguments[1::2]
    known = {name for types in TYPES.values() for name in fields_of(types)}
    for name in names:
        if not name.startswith("--") or name[2:] not in known:
            raise UserError(f"command line: {name} is no option of plan, sft or grpo (write --name value)")
    if len(names) != len(values):
        raise UserError(f"command line: {names[-1]} has no value")
    return {name[2:]: yaml.safe_load(value) for name, value in zip(names, values, strict=True)}


def load_or_assume_rows(stage: Stage, spec: Spec, expected: int, answer: float, patch: int, base: str) -> Rows:
    """The stage's rows: measured where the file is there, else `expected` rows as long as the spec allows."""
    file = Path(stage.options["data_dir"]) / f"{SPLIT[stage.kind]}.parquet"
    return from_file(file, spec, patch, base) if file.exists() else from_spec(spec, expected, answer, patch, base)


def memory_batch(stage: Stage, rows: Rows, spec: Spec) -> Batch:
    """What one process holds at once at most: the longest rows, and in stage 2 completions up to the limit."""
    sequences = stage.options["per_device_train_batch_size"]
    answer = spec.max_new_tokens if stage.kind == "grpo" else rows.longest_answer
    images = 2 if rows.images > 1 else 1
    return Batch(sequences, rows.longest_prompt + answer, sequences * answer, sequences * images, rows.patches)


def per_step(stage: Stage, gpus: int) -> int:
    """Rows (stage 1) or completions (stage 2) of one step."""
    return gpus * stage.options["per_device_train_batch_size"] * stage.options["gradient_accumulation_steps"]


def step_count(stage: Stage, rows: Rows, gpus: int) -> int:
    """Steps of the whole run; in stage 2 each prompt is sampled `num_generations` times, in whole rollouts alone."""
    options, batch = stage.options, per_step(stage, gpus)
    if options["max_steps"] > 0:
        return int(options["max_steps"])
    if stage.kind == "sft":
        return math.ceil(-(-rows.count // batch) * options["num_train_epochs"])
    rollout = batch // options["gradient_accumulation_steps"] * options["steps_per_generation"]
    rollouts = rows.count * options["num_generations"] // rollout
    return max(1, math.ceil(rollouts * rollout * options["num_iterations"] / batch * options["num_train_epochs"]))
