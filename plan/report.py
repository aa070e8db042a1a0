"""Everything that `plan` says of one stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.recipe import load_model
from plan.checks import Finding, check_engine, check_files, check_memory, check_options
from plan.compute import grpo_step, sft_step
from plan.hardware import Card, PlanRecipe, StagePlan, card_named, load_engine
from plan.memory import CONTEXT, cache_bytes, rollout_bytes, training_bytes
from plan.model import find_config, load_config, meta_model, parameters_by_part
from plan.rows import spec_of
from plan.stage import Stage, load_stage, memory_batch, per_step, rows_of, step_count
from training.attention import best_attention
from training.model import trained_parameters


def human(seconds: float) -> str:
    """Seconds, minutes, hours or days, whichever is short."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


@dataclass(frozen=True)
class Planned:
    """Lines to print; memory tables as (title, part -> bytes, sum without checkpointing or None); what was found wrong."""

    card: Card
    lines: list[str]
    memory: list[tuple[str, dict[str, int], int | None]]
    findings: list[Finding]


def plan_stage(
    stage: Stage, folder: Path, gpu: str | None, gpus: int | None, engine: str | None, environment: Mapping[str, str]
) -> Planned:
    """The plan of one stage on `gpus` cards `gpu` under `engine`; where None, as `plan.yaml` in `folder` says.

    Raises UserError for a recipe that cannot be read, or rows without a needed column.
    """
    assumed = load_model(folder / "plan.yaml", PlanRecipe)
    own = assumed.stages.get(stage.name, StagePlan())
    card = card_named(gpu or assumed.gpu)
    count = gpus or own.gpus or assumed.gpus
    machine = load_engine(engine or own.engine or assumed.engine)
    first = folder / "sft.yaml"
    base = load_stage(first, {}).options["model_name_or_path"] if first.exists() else stage.options["model_name_or_path"]
    config = load_config(find_config(first if first.exists() else stage.file, base))
    model = meta_model(config, stage.options)
    trained = trained_parameters(model)
    patch = config.vision_config.patch_size
    spec = spec_of(Path(stage.options["data_dir"]), folder)
    split = "train" if stage.kind == "sft" else "rl"
    rows = rows_of(stage, spec, assumed.rows[split], assumed.answer_tokens, patch, base)
    attention, why = best_attention(stage.options["attn_implementation"], stage.options["dtype"], card.name != "cpu")

    parts = parameters_by_part(model)
    steps, of_step = step_count(stage, rows, count), per_step(stage, count)
    lines = [
        f"{count} x {card.name}, engine {machine.name}; attention: {attention} ({why})",
        f"parameters: {sum(total for total, _ in parts.values()):,} in all, {trained:,} trained; "
        + ", ".join(f"{name} {total:,}" + (f" ({own_:,} trained)" if own_ else "") for name, (total, own_) in parts.items()),
        f"{rows.count:,} rows ({'looked at' if rows.measured else 'as plan.yaml says'}): {rows.tokens:,.0f} tokens on average, "
        f"of {rows.pictures:.2f} pictures {rows.picture_tokens:,.0f}, prompt {rows.prompt:,.0f}, answer {rows.answer:,.0f}; at most "
        f"{rows.longest_prompt:,} before the answer",
    ]
    if stage.kind == "sft":
        lines.append(f"{steps:,} steps of {of_step:,} rows, {of_step * rows.pictures:,.0f} pictures a step")
    else:
        prompts = of_step / stage.options["num_generations"]
        lines.append(
            f"{steps:,} steps of {of_step:,} completions of {prompts:g} prompts, {prompts * rows.pictures:,.0f} different pictures a step"
        )

    def training(of: Stage) -> dict[str, int]:
        found = training_bytes(model, of.options, machine, count, memory_batch(of, rows, spec))
        if of.options["use_vllm"] and of.options["vllm_mode"] == "colocate" and not of.options["vllm_enable_sleep_mode"]:
            found["vLLM"] = int(of.options["vllm_gpu_memory_utilization"] * card.memory)
        return {**found, **({"CUDA and NCCL (assumed)": CONTEXT} if card.flops else {})}

    def without_checkpointing(of: Stage) -> int:
        return sum(training(Stage(of.file, of.kind, of.written, {**of.options, "gradient_checkpointing": False})).values())

    learning = training(stage)
    without = without_checkpointing(stage) if stage.options["gradient_checkpointing"] else None
    memory: list[tuple[str, dict[str, int], int | None]] = [("memory of one GPU, learning", learning, without)]
    findings = [
        *check_files(stage, {f"{load_stage(first, {}).options['output_dir']}/merged"} if first.exists() else set()),
        *check_engine(stage, machine, count, dict(environment)),
        *check_options(stage, spec, count, rows.longest_prompt),
        *check_memory(stage, card, sum(learning.values()), stage.kind == "sft", lambda of: sum(training(of).values())),
    ]
    speed = card.flops * assumed.utilisation
    if stage.kind == "sft":
        time = sft_step(model, stage.options, rows, of_step, count, speed)
    else:
        once = stage.options["per_device_train_batch_size"] * stage.options["steps_per_generation"]
        longest = rows.longest_prompt + spec.max_new_tokens
        sampling = rollout_bytes(model, stage.options, machine, count, card, once, longest)
        sampling |= {"CUDA and NCCL (assumed)": CONTEXT} if card.flops else {}
        memory.append((f"memory of one GPU, sampling {once} completions at once", sampling, None))
        if sum(sampling.values()) > card.memory:
            change = (
                "lower vllm_gpu_memory_utilization, or vllm_mode: server"
                if stage.options["use_vllm"]
                else "lower per_device_train_batch_size, or steps_per_generation"
            )
            findings.append(Finding("error", f"{stage.file}: sampling does not fit {card.name}: {change}"))
        if "vLLM" in sampling:
            weights = sum(2 * p.numel() for n, p in model.named_parameters() if "lora_" not in n)
            weights //= stage.options["vllm_tensor_parallel_size"]
            room = sampling["vLLM"] - weights - CONTEXT
            together = max(0, room // cache_bytes(model, longest))
            lines.append(
                f"vLLM: {sampling['vLLM'] / 2**30:.1f} GiB, of it {weights / 2**30:.1f} for weights: room for the keys and values of "
                f"{together} completions of {longest:,} tokens at once"
            )
            if not together:
                findings.append(
                    Finding("error", f"{stage.file}: vllm_gpu_memory_utilization: no room beside vLLM's weights: raise it")
                )
        time = grpo_step(model, stage.options, rows, of_step, count, card, speed, once)
    lines.append(f"{time.flops / 1e12:,.0f} TFLOP a step, {time.flops * steps / 1e18:,.2f} EFLOP in all")
    if time.seconds:
        each = sum(time.seconds.values())
        lines.append(
            f"time at {assumed.utilisation:.0%} of the card's stated {card.flops / 1e12:,.0f} TFLOP/s: {human(each)} a step ("
            + ", ".join(f"{name} {human(seconds)}" for name, seconds in time.seconds.items())
            + f"), {human(each * steps)} in all, {each * steps * count / 3600:,.0f} GPU hours"
        )
    else:
        lines.append("time: not estimated for a CPU")
    return Planned(card, lines, memory, findings)
