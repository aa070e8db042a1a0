"""What would not work, or would waste the hardware: one line each, with the line of the recipe to change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

from grpo.__main__ import check_save_steps
from pipeline.fingerprint import is_finished
from pipeline.launch import missing_packages
from rewards_fn import load_rewards
from spatial_edit_reward import Spec
from spatial_edit_reward.errors import UserError
from tools.plan.hardware import GIB, Card, Engine
from tools.plan.stage import SPLIT, Stage, per_step

# Of the card's memory: over it a run would not fit, under it the batch could be larger. Between 92 % and all of it,
# fragments of freed memory decide.
TIGHT, IDLE = 0.92, 0.45
# Positions of a pass that keep a large card busy; more make no step faster. An assumption.
FULL = 4096


@dataclass(frozen=True)
class Finding:
    """An error makes the run fail; a warning makes it slower, or depends on what this machine does not show."""

    level: Literal["error", "warning"]
    text: str


def error(stage: Stage, text: str) -> Finding:
    return Finding("error", f"{stage.file}: {text}")


def warning(stage: Stage, text: str) -> Finding:
    return Finding("warning", f"{stage.file}: {text}")


def check_files(stage: Stage, earlier: set[str]) -> list[Finding]:
    """Files, rewards and packages that the stage needs. `earlier`: folders that other stages of this recipe will make."""
    found = []
    data = Path(stage.options["data_dir"])
    file = data / f"{SPLIT[stage.kind]}.parquet"
    if not file.exists():
        made_by = "mine" if data.name == "mine" else "data"
        found.append(warning(stage, f"data_dir: {file} is not there yet: 'make {made_by}' makes it"))
    model = Path(stage.options["model_name_or_path"])
    if stage.kind == "grpo" and not model.is_dir():
        if str(model) in earlier:
            found.append(warning(stage, f"model_name_or_path: {model} is not there yet: 'make sft' makes it"))
        else:
            found.append(
                error(stage, f"model_name_or_path: {model} is not there, and no stage of this recipe makes it")
            )
    elif stage.kind == "grpo" and model.name == "merged" and not is_finished(model.parent):
        found.append(error(stage, f"model_name_or_path: {model.parent} is not finished: run 'make sft'"))
    elif stage.kind == "sft" and not model.is_dir() and stage.options["model_name_or_path"].count("/") != 1:
        found.append(error(stage, f"model_name_or_path: {model} is neither a folder nor a Hub name"))
    found += [warning(stage, f"on this machine, {sentence}") for sentence in missing_packages(stage.options)]
    if stage.kind == "grpo":
        try:
            rewards = load_rewards(stage.options["reward_funcs"] or [])
            weights = stage.options["reward_weights"]
            if weights is not None and len(weights) != len(rewards):
                found.append(error(stage, f"reward_weights: {len(weights)} weights for {len(rewards)} reward_funcs"))
        except ValueError as refused:
            found.append(error(stage, f"reward_funcs: {refused}"))
    return found


def check_engine(stage: Stage, engine: Engine, gpus: int, environment: Mapping[str, str]) -> list[Finding]:
    """Whether the engine starts as many processes as there are GPUs, and has what it needs."""
    found = []
    engine_file = f"recipes/accelerate/{engine.name}.yaml"
    if not engine.distributed and gpus > 1:
        found.append(error(stage, f"{engine_file} starts 1 process, {gpus - 1} of {gpus} GPUs would idle: ENGINE=ddp"))
    if engine.distributed and engine.processes != gpus:
        found.append(
            warning(stage, f"{engine_file} starts {engine.processes} processes: launch with --num_processes {gpus}")
        )
    if gpus % engine.machines:
        found.append(error(stage, f"{gpus} GPUs cannot be divided among {engine.machines} machines: change GPUS"))
    if engine.machines > 1 and not {"MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
        found.append(
            warning(
                stage,
                f"{engine_file}: every node needs --machine_rank, --main_process_ip and --main_process_port of the first; "
                "recipes/accelerate/README.md has the lines for torchrun and Slurm",
            )
        )
    if engine.zero and find_spec("deepspeed") is None:
        found.append(warning(stage, "on this machine, deepspeed is not installed: pip install -e '.[dist]'"))
    if stage.options["load_in_4bit"] and engine.divides_weights:
        found.append(
            error(stage, f"load_in_4bit: 4-bit weights cannot be divided by {engine.name}: ENGINE=ddp, or single")
        )
    if stage.options["use_peft"] and engine.divides_weights:
        found.append(
            warning(stage, f"{engine.name} gathers every weight for an adapter that fits without: try ENGINE=ddp")
        )
    return found


def check_options(stage: Stage, spec: Spec, gpus: int, longest: int) -> list[Finding]:
    """Settings that contradict each other, or the spec. `longest`: tokens of the longest prompt."""
    options, found = stage.options, []
    if stage.kind == "sft":
        if options["max_length"] is not None:
            found.append(error(stage, "max_length: must be null: truncation would cut image tokens"))
        return found + common(stage)
    completions = per_step(stage, gpus) // options["gradient_accumulation_steps"] * options["steps_per_generation"]
    if options["num_generations"] < 2:
        found.append(error(stage, "num_generations: a group needs at least 2 completions to compare"))
    elif completions % options["num_generations"]:
        found.append(
            error(
                stage,
                f"num_generations: {options['num_generations']} does not divide the {completions} completions of a rollout "
                f"({gpus} GPUs x per_device_train_batch_size {options['per_device_train_batch_size']} x steps_per_generation "
                f"{options['steps_per_generation']})",
            )
        )
    try:
        check_save_steps(SimpleNamespace(**options))
    except UserError as refused:
        found.append(error(stage, str(refused)))
    if options["use_vllm"]:
        found += check_vllm(stage, spec, gpus, longest)
    return found + common(stage)


def check_vllm(stage: Stage, spec: Spec, gpus: int, longest: int) -> list[Finding]:
    options, found = stage.options, []
    needed, limit = longest + spec.max_new_tokens, options["vllm_max_model_length"]
    if limit is not None and limit < needed:
        found.append(error(stage, f"vllm_max_model_length: {limit}, but prompt and answer take up to {needed} tokens"))
    if limit is None:
        found.append(
            warning(stage, f"vllm_max_model_length: null plans for the model's 262,144 tokens: set {needed + 256}")
        )
    if gpus % options["vllm_tensor_parallel_size"]:
        found.append(
            error(stage, f"vllm_tensor_parallel_size: {options['vllm_tensor_parallel_size']} does not divide {gpus}")
        )
    if options["vllm_importance_sampling_correction"] and "sequence" in options["vllm_importance_sampling_mode"]:
        found.append(
            warning(stage, "vllm_importance_sampling_mode: by sequence, long completions drop out: token_truncate")
        )
    cut = options["top_p"] < 1 or options["top_k"] or options["repetition_penalty"] != 1
    if cut:
        found.append(
            warning(stage, "top_p, top_k, repetition_penalty: they bias the ratio of new to sampled probabilities")
        )
    return found


def common(stage: Stage) -> list[Finding]:
    options, found = stage.options, []
    if options["bf16"] and options["dtype"] in (None, "float32"):
        found.append(warning(stage, "dtype: float32 keeps every weight twice as large as bf16 needs: dtype: bfloat16"))
    if options["load_in_4bit"] and not options["use_peft"]:
        found.append(error(stage, "load_in_4bit: weights in 4 bits cannot be trained: use_peft: true"))
    return found


def check_memory(
    stage: Stage, card: Card, total: int, positions: int, estimate: Callable[[Stage], int]
) -> list[Finding]:
    """Whether `total` bytes fit the card, and what would; `estimate` gives the bytes of a changed stage.

    `positions`: of one pass, padding included.
    """
    said = f"{total / GIB:.1f} GiB of {card.memory / GIB:.1f} on {card.name}"
    fits, short = card.memory * TIGHT, positions < FULL
    checkpointing = bool(stage.options["gradient_checkpointing"])
    if total <= fits:
        larger = changed(stage, 2)
        if checkpointing and estimate(with_options(stage, gradient_checkpointing=False)) <= fits:
            return [
                warning(stage, f"{said}: gradient_checkpointing: false would fit too, and take a forward pass less")
            ]
        if short and total < card.memory * IDLE and larger and estimate(larger) <= fits:
            return [warning(stage, f"{said}: {lines(larger)} would fit too, in fewer and fuller passes")]
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
        return [error(stage, f"{said} do not fit; what does: {advice}")]
    return [warning(stage, f"{said} leave no room for fragments; what does: {advice}")]


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
    said = ", ".join(f"{name}: {stage.options[name]}" for name in names)
    return said + (", gradient_checkpointing: true" if stage.options["gradient_checkpointing"] else "")
