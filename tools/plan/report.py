"""The plan of one stage: the lines and tables to print, and the problems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from pipeline.model import trained_parameters
from pipeline.recipe import load_config
from spatial_edit_reward import Spec
from spatial_edit_reward.inference.attention import best_attention
from tools.plan.checks import Problem, check_engine, check_files, check_memory, check_options, error, with_options
from tools.plan.compute import StepTime, grpo_step, mean_workload, sft_step
from tools.plan.hardware import GIB, Card, Engine, PlanRecipe, StagePlan, find_card, load_engine
from tools.plan.memory import CONTEXT, cache_bytes, rollout_bytes, training_bytes
from tools.plan.model import find_config, load_model_config, meta_model, parameters_by_part, without_adapter
from tools.plan.node import describe_node
from tools.plan.rows import Rows, load_or_build_spec, mean_answer
from tools.plan.stage import SPLIT, Stage, load_or_assume_rows, load_stage, memory_batch, per_step, step_count


@dataclass(frozen=True)
class Setting:
    """All that the plan of one stage is computed from."""

    stage: Stage
    assumed: PlanRecipe
    card: Card
    gpus: int
    engine: Engine
    model: PreTrainedModel | PeftModel
    spec: Spec
    rows: Rows
    merged: str  # the folder of weights that this recipe's stage 1 makes
    base: str  # what it starts from


@dataclass(frozen=True)
class Planned:
    """Lines to print; memory tables as (title, part -> bytes, sum without checkpointing or None); problems."""

    card: Card
    lines: list[str] = field(default_factory=list)
    memory: list[tuple[str, dict[str, int], int | None]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def load_setting(stage: Stage, folder: Path, gpu: str | None, gpus: int | None, engine: str | None) -> Setting:
    """The stage on `gpus` cards `gpu` under `engine`; where None, as `plan.yaml` in `folder` says.

    Raises UserError for a recipe that cannot be read, an adapter that reaches the vision tower, rows without a needed column.
    """
    assumed = load_config(folder / "plan.yaml", PlanRecipe)
    of_stage = assumed.stages.get(stage.name, StagePlan())
    first = folder / "sft.yaml" if (folder / "sft.yaml").exists() else stage.file
    stage_1 = load_stage(first, {})
    base = stage_1.options["model_name_or_path"]
    model = meta_model(load_model_config(find_config(first, base)), stage.options)
    spec = load_or_build_spec(Path(stage.options["data_dir"]), folder)
    patch = without_adapter(model).config.vision_config.patch_size
    expected = assumed.rows[SPLIT[stage.kind]]
    answer = mean_answer(Path(stage_1.options["data_dir"]) / "train.parquet", spec, base) or assumed.answer_tokens
    return Setting(
        stage,
        assumed,
        find_card(gpu or assumed.gpu),
        gpus or of_stage.gpus or assumed.gpus,
        load_engine(engine or of_stage.engine or assumed.engine),
        model,
        spec,
        load_or_assume_rows(stage, spec, expected, answer, patch, base),
        f"{stage_1.options['output_dir']}/merged",
        base,
    )


def plan_stage(setting: Setting, environment: Mapping[str, str]) -> Planned:
    """The plan of one stage; `environment` are the variables that a launcher would be started with."""
    stage, card, rows = setting.stage, setting.card, setting.rows
    planned = Planned(card, lines=[*describe(setting)])
    planned.problems.extend(
        [
            *check_files(stage, {setting.merged}),
            *check_engine(stage, setting.engine, setting.gpus, environment),
            *check_options(stage, setting.spec, setting.gpus, rows.longest_prompt),
        ]
    )
    batch = memory_batch(stage, rows, setting.spec)
    training = training_memory(setting, stage)
    unchecked = training_memory(setting, with_options(stage, gradient_checkpointing=False))
    kept = sum(unchecked.values()) if stage.options["gradient_checkpointing"] else None
    planned.memory.append(("memory of one GPU while it trains", training, kept))
    planned.problems.extend(
        check_memory(
            stage,
            card,
            sum(training.values()),
            batch.sequences * batch.tokens,
            lambda other: sum(training_memory(setting, other).values()),
        )
    )
    speed = card.flops * setting.assumed.utilization
    load = mean_workload(rows, per_step(stage, setting.gpus))
    if stage.kind == "sft":
        time = sft_step(setting.model, stage.options, load, setting.gpus, speed)
    else:
        plan_sampling(setting, planned)
        time = grpo_step(setting.model, stage.options, rows, load, setting.gpus, card, speed)
    planned.lines.extend(describe_time(setting, time))
    planned.lines.extend(describe_node(setting))
    return planned


def describe(setting: Setting) -> list[str]:
    """Hardware, parameters, rows and steps, a line each. Raises UserError for an adapter that reaches the vision tower."""
    stage, rows, parts = setting.stage, setting.rows, parameters_by_part(setting.model)
    attention, why = best_attention(
        stage.options["attn_implementation"], without_adapter(setting.model).dtype, setting.card.name != "cpu"
    )
    by_part = (
        f"{name} {size:,}" + (f" ({trained:,} trained)" if trained else "") for name, (size, trained) in parts.items()
    )
    steps, batch = step_count(stage, rows, setting.gpus), per_step(stage, setting.gpus)
    in_batch = f"{batch:,} rows with {batch * rows.images:,.0f} images"
    if stage.kind == "grpo":
        prompts = batch / stage.options["num_generations"]
        in_batch = f"{batch:,} completions: {prompts:g} prompts with {prompts * rows.images:,.0f} images"
    return [
        f"hardware: {setting.gpus} x {setting.card.name}, engine {setting.engine.name}",
        f"attention: {attention} ({why})",
        f"parameters: {sum(size for size, _ in parts.values()):,} in all, {trained_parameters(setting.model):,} trained; "
        + ", ".join(by_part),
        f"rows: {rows.count:,}, {'measured' if rows.measured else 'assumed in plan.yaml'}; {rows.tokens:,.0f} tokens a row "
        f"on average ({rows.images:.2f} images {rows.image_tokens:,.0f}, prompt {rows.prompt:,.0f}, "
        f"answer {rows.answer:,.0f}), at most {rows.longest_prompt:,} before the answer",
        f"steps: {steps:,} of {in_batch}",
    ]


def training_memory(setting: Setting, stage: Stage) -> dict[str, int]:
    """Part -> bytes on one GPU while `stage`, the setting's or a changed one, trains."""
    batch = memory_batch(stage, setting.rows, setting.spec)
    parts = training_bytes(setting.model, stage.options, setting.engine, setting.gpus, batch)
    options = stage.options
    if options["use_vllm"] and options["vllm_mode"] == "colocate" and not options["vllm_enable_sleep_mode"]:
        parts["vLLM, awake"] = int(options["vllm_gpu_memory_utilization"] * setting.card.memory)
    return {**parts, **on_gpu(setting.card)}


def on_gpu(card: Card) -> dict[str, int]:
    return {"CUDA and NCCL (assumed)": CONTEXT} if card.flops else {}


def plan_sampling(setting: Setting, planned: Planned) -> None:
    """Adds to `planned` the memory of a rollout, and how many completions vLLM has room for."""
    stage, card, options = setting.stage, setting.card, setting.stage.options
    batch = options["per_device_train_batch_size"] * options["steps_per_generation"]
    longest = setting.rows.longest_prompt + setting.spec.max_new_tokens
    sampling = rollout_bytes(setting.model, options, setting.engine, setting.gpus, card, batch, longest) | on_gpu(card)
    planned.memory.append((f"memory of one GPU while it samples {batch} completions", sampling, None))
    if sum(sampling.values()) > card.memory:
        change = "per_device_train_batch_size or steps_per_generation: lower"
        if options["use_vllm"]:
            change = "vllm_gpu_memory_utilization: lower, or vllm_mode: server"
        planned.problems.append(error(stage, f"sampling does not fit {card.name}: {change}"))
    if "vLLM" not in sampling:
        return
    weights = sum(2 * p.numel() for name, p in setting.model.named_parameters() if "lora_" not in name)
    weights //= options["vllm_tensor_parallel_size"]
    together = max(0, (sampling["vLLM"] - weights - CONTEXT) // cache_bytes(setting.model, longest))
    planned.lines.append(
        f"vLLM: {sampling['vLLM'] / GIB:.1f} GiB on each GPU, {weights / GIB:.1f} of it weights; the rest holds the keys and "
        f"values of {together} completions of {longest:,} tokens at once"
    )
    if not together:
        planned.problems.append(error(stage, "vllm_gpu_memory_utilization: no room beside vLLM's weights: raise it"))


def describe_time(setting: Setting, time: StepTime) -> list[str]:
    """Operations, and time at the assumed share of the card's speed, a line each."""
    steps = step_count(setting.stage, setting.rows, setting.gpus)
    lines = [f"operations: {format_flops(time.flops)} a step, {format_flops(time.flops * steps)} in all"]
    if not time.seconds:
        return [*lines, "time: not estimated for a CPU"]
    each = sum(time.seconds.values())
    spent = ", ".join(f"{name} {format_time(seconds)}" for name, seconds in time.seconds.items())
    return [
        *lines,
        f"time: {format_time(each)} a step ({spent}), {format_time(each * steps)} in all, "
        f"{each * steps * setting.gpus / 3600:,.0f} GPU hours; assumes {setting.assumed.utilization:.0%} of the card's "
        f"{setting.card.flops / 1e12:,.0f} TFLOP/s",
    ]


def format_time(seconds: float) -> str:
    """Seconds, minutes, hours or days, whichever is short."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def format_flops(flops: float) -> str:
    """Operations in the largest unit that gives at least 10 of them."""
    for unit, size in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12)):
        if flops >= 10 * size:
            return f"{flops / size:,.1f} {unit}"
    return f"{flops / 1e9:,.1f} GFLOP"
