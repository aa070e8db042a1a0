"""What would not work, or would waste the hardware: one line each, with the line of the recipe to change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

from data.rows import features
from data.stored_rows import StoredRows
from grpo.__main__ import check_save_steps
from pipeline.folders import require_finished
from pipeline.launch import missing_packages
from pipeline.rewards import require_applicable
from rewards_fn import load_rewards
from spatial_edit_reward import Spec
from spatial_edit_reward.errors import UserError
from tools.plan.hardware import GIB, Card, Engine
from tools.plan.stage import SPLIT, Stage, per_step

# Of the card's memory: over it a run would not fit, under it the batch could be larger. Between 92 % and all of it,
# fragments of freed memory decide.
TIGHT, IDLE = 0.92, 0.45
# Positions of a pass that keep a large card busy: more of them make no step faster. An assumption.
BUSY = 4096


@dataclass(frozen=True)
class Problem:
    """An error makes the run fail; a warning makes it slower, or depends on something that is not on this machine."""

    level: Literal["error", "warning"]
    text: str


def error(stage: Stage, text: str) -> Problem:
    return Problem("error", f"{stage.file}: {text}")


def warning(stage: Stage, text: str) -> Problem:
    return Problem("warning", f"{stage.file}: {text}")


def check_files(stage: Stage, earlier: set[str]) -> list[Problem]:
    """Files, rewards and packages that the stage needs. `earlier`: folders that other stages of this recipe will make."""
    problems = []
    data = Path(stage.options["data_dir"])
    file = data / f"{SPLIT[stage.kind]}.parquet"
    if not file.exists():
        verb = "mine" if data.name == "mine" else "data"
        problems.append(warning(stage, f"data_dir: {file} is not there yet: 'make {verb}' makes it"))
    problems += check_base(stage) if stage.kind == "sft" else check_stage_1_model(stage, earlier)
    problems += [warning(stage, f"on this machine, {sentence}") for sentence in missing_packages(stage.options)]
    return problems + (check_rewards(stage) if stage.kind == "grpo" else [])


def check_base(stage: Stage) -> list[Problem]:
    """Whether stage 1's base is a folder, or could be a name on the Hub."""
    base = stage.options["model_name_or_path"]
    if Path(base).is_dir() or base.count("/") == 1:
        return []
    return [error(stage, f"model_name_or_path: {base} is neither a folder nor a Hub name")]


def check_stage_1_model(stage: Stage, earlier: set[str]) -> list[Problem]:
    """Whether the weights that stage 2 starts from are there, or in a folder of `earlier`."""
    model = Path(stage.options["model_name_or_path"])
    if not model.is_dir() and str(model) in earlier:
        return [warning(stage, f"model_name_or_path: {model} is not there yet: 'make sft' makes it")]
    if not model.is_dir():
        return [error(stage, f"model_name_or_path: {model} is not there, and no stage of this recipe makes it")]
    try:
        if model.name == "merged":
            require_finished(model.parent, "sft")
    except UserError as reason:
        return [error(stage, f"model_name_or_path: {reason}")]
    return []


def check_rewards(stage: Stage) -> list[Problem]:
    try:
        rewards = load_rewards(stage.options["reward_funcs"] or [])
    except ValueError as reason:
        return [error(stage, f"reward_funcs: {reason}")]
    weights = stage.options["reward_weights"]
    if weights is not None and len(weights) != len(rewards):
        return [error(stage, f"reward_weights: {len(weights)} weights for {len(rewards)} reward_funcs")]
    folder = Path(stage.options["data_dir"])
    files = (folder / "rl.parquet", folder.parent / "data" / "rl.parquet")  # what mining would choose from
    file = next((file for file in files if file.exists()), None)
    try:
        require_applicable(rewards, StoredRows(file, features().arrow_schema).texts() if file else (), file or files[0])
    except UserError as reason:
        return [error(stage, str(reason))]
    return []


def check_engine(stage: Stage, engine: Engine, gpus: int, environment: Mapping[str, str]) -> list[Problem]:
    """Whether the engine starts as many processes as there are GPUs, and has what it needs."""
    problems = []
    engine_file = f"recipes/accelerate/{engine.name}.yaml"
    if not engine.distributed and gpus > 1:
        problems.append(
            error(stage, f"{engine_file} starts 1 process, {gpus - 1} of {gpus} GPUs would idle: ENGINE=ddp")
        )
    if engine.distributed and engine.processes != gpus:
        problems.append(
            warning(stage, f"{engine_file} starts {engine.processes} processes: launch with --num_processes {gpus}")
        )
    if gpus % engine.machines:
        problems.append(error(stage, f"{gpus} GPUs cannot be divided among {engine.machines} machines: change GPUS"))
    if engine.machines > 1 and not {"MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
        problems.append(
            warning(
                stage,
                f"{engine_file}: every node needs --machine_rank, --main_process_ip and --main_process_port of the first; "
                "recipes/accelerate/README.md has the lines for torchrun and Slurm",
            )
        )
    if engine.zero and find_spec("deepspeed") is None:
        problems.append(warning(stage, "on this machine, deepspeed is not installed: pip install -e '.[dist]'"))
    if stage.options["load_in_4bit"] and engine.divides_weights:
        problems.append(
            error(stage, f"load_in_4bit: 4-bit weights cannot be divided by {engine.name}: ENGINE=ddp, or single")
        )
    if stage.options["use_peft"] and engine.divides_weights:
        problems.append(
            warning(stage, f"{engine.name} gathers every weight for an adapter that fits without: try ENGINE=ddp")
        )
    return problems


def check_options(stage: Stage, spec: Spec, gpus: int, longest: int) -> list[Problem]:
    """Settings that contradict each other, or the spec. `longest`: tokens of the longest prompt."""
    options, problems = stage.options, []
    if stage.kind == "sft":
        if options["max_length"] is not None:
            problems.append(error(stage, "max_length: must be null: truncation would cut image tokens"))
        return problems + common(stage)
    completions = per_step(stage, gpus) // options["gradient_accumulation_steps"] * options["steps_per_generation"]
    if options["num_generations"] < 2:
        problems.append(error(stage, "num_generations: a group needs at least 2 completions to compare"))
    elif completions % options["num_generations"]:
        problems.append(
            error(
                stage,
                f"num_generations: {options['num_generations']} does not divide the {completions} completions of a rollout "
                f"({gpus} GPUs x per_device_train_batch_size {options['per_device_train_batch_size']} x steps_per_generation "
                f"{options['steps_per_generation']})",
            )
        )
    try:
        check_save_steps(SimpleNamespace(**options))
    except UserError as reason:
        problems.append(error(stage, str(reason)))
    if options["use_vllm"]:
        problems += check_vllm(stage, spec, gpus, longest)
    return problems + common(stage)


def check_vllm(stage: Stage, spec: Spec, gpus: int, longest: int) -> list[Problem]:
    options, problems = stage.options, []
    needed, limit = longest + spec.max_new_tokens, options["vllm_max_model_length"]
    if limit is not None and limit < needed:
        problems.append(
            error(stage, f"vllm_max_model_length: {limit}, but prompt and answer take up to {needed} tokens")
        )
    if limit is None:
        problems.append(
            warning(stage, f"vllm_max_model_length: null plans for the model's 262,144 tokens: set {needed + 256}")
        )
    if gpus % options["vllm_tensor_parallel_size"]:
        problems.append(
            error(stage, f"vllm_tensor_parallel_size: {options['vllm_tensor_parallel_size']} does not divide {gpus}")
        )
    if options["vllm_importance_sampling_correction"] and "sequence" in options["vllm_importance_sampling_mode"]:
        problems.append(
            warning(stage, "vllm_importance_sampling_mode: by sequence, long completions drop out: token_truncate")
        )
    cut = options["top_p"] < 1 or options["top_k"] or options["repetition_penalty"] != 1
    if cut:
        problems.append(
            warning(stage, "top_p, top_k, repetition_penalty: they bias the ratio of new to sampled probabilities")
        )
    return problems


def common(stage: Stage) -> list[Problem]:
    options, problems = stage.options, []
    if options["bf16"] and options["dtype"] in (None, "float32"):
        problems.append(
            warning(stage, "dtype: float32 keeps every weight twice as large as bf16 needs: dtype: bfloat16")
        )
    if options["load_in_4bit"] and not options["use_peft"]:
        problems.append(error(stage, "load_in_4bit: weights in 4 bits cannot be trained: use_peft: true"))
    return problems


def check_memory(
    stage: Stage, card: Card, total: int, positions: int, estimate: Callable[[Stage], int]
) -> list[Problem]:
    """Whether `total` bytes fit the card, and what would; `estimate` gives the bytes of a changed stage.

    `positions`: of one pass, padding included.
    """
    takes = f"training takes {total / GIB:.1f} of the {card.memory / GIB:.1f} GiB of {card.name}"
    fits, short = card.memory * TIGHT, positions < BUSY
    checkpointing = bool(stage.options["gradient_checkpointing"])
    if total <= fits:
        larger = changed(stage, 2)
        if checkpointing and estimate(with_options(stage, gradient_checkpointing=False)) <= fits:
            return [warning(stage, f"{takes}: gradient_checkpointing: false would fit too, and save a forward pass")]
        if short and total < card.memory * IDLE and larger and estimate(larger) <= fits:
            return [warning(stage, f"{takes}: {lines(larger)} would fit too, in fewer and fuller passes")]
        return []
    smaller: Stage | None = stage if checkpointing else with_options(stage, gradient_checkpointing=True)
    while smaller and estimate(smaller) > fits:
        smaller = changed(smaller, 0.5)
    advice = (
        lines(smaller)
        if smaller
        else "no batch does: ENGINE=zero3 or fsdp2, more or larger GPUs, or load_in_4bit: true"
    )
    if total > card.memory:
        return [error(stage, f"{takes}, which does not fit; what does: {advice}")]
    return [warning(stage, f"{takes}, which leaves no room for fragments; what does: {advice}")]


def with_options(stage: Stage, **changes: object) -> Stage:
    return replace(stage, options={**stage.options, **changes})


def changed(stage: Stage, factor: float) -> Stage | None:
    """The stage with its batch a device times `factor`, the rows of a step as they are; None where that cannot be."""
    batch = stage.options["per_device_train_batch_size"] * factor
    steps = stage.options["gradient_accumulation_steps"] / factor
    if batch < 1 or steps < 1 or batch % 1 or steps % 1:
        return None
    changes: dict[str, object] = {"per_device_train_batch_size": int(batch), "gradient_accumulation_steps": int(steps)}
    if stage.kind == "grpo":
        changes["steps_per_generation"] = max(1, round(stage.options["steps_per_generation"] / factor))
    return with_options(stage, **changes)


def lines(stage: Stage) -> str:
    """The lines of the recipe that make it this stage."""
    names = ("per_device_train_batch_size", "gradient_accumulation_steps")
    text = ", ".join(f"{name}: {stage.options[name]}" for name in names)
    return text + (", gradient_checkpointing: true" if stage.options["gradient_checkpointing"] else "")
