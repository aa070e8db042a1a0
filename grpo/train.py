"""One run of stage 2: rows without answers in, an adapter that earns more reward out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import trl.trainer.grpo_trainer
from trl import GRPOConfig, GRPOTrainer, ModelConfig, get_peft_config

from data.rows import for_training, load_rows
from grpo.reward_std import frac_reward_zero_std
from grpo.rollouts import Rollouts, check_logp_difference
from grpo.samples import SamplePages
from pipeline.distributed import engine_name, free_memory_and_shutdown, init_deepspeed, num_parameters
from pipeline.model import (
    Inputs,
    SpecBesideCheckpoints,
    no_vision_tokens,
    quantization,
    save_trained,
    trained_parameters,
)
from pipeline.random_weights import StepMeter, random_inputs, time_steps
from pipeline.rewards import require_applicable
from pipeline.training import train_to_end
from rewards_fn.load import Reward
from spatial_edit_reward import load_spec
from spatial_edit_reward.inference.model import load_model, load_processor

trl.trainer.grpo_trainer.VLLMGeneration = Rollouts  # the trainer opens it by this name


class LoggingGRPOTrainer(GRPOTrainer):
    """TRL's trainer, which also keeps the newest rollout for `SamplePages` and logs the share of groups without spread.

    The share is per reward and for their weighted sum; TRL's own `frac_reward_zero_std` looks at the whole batch under
    `normalize_then_sum`. Where vLLM samples, its log-probabilities may differ from the trainer's by `max_logp_difference`.
    """

    max_logp_difference: float | None = None
    rollout: Sequence[tuple[dict[str, Any], Any, list[float | None]]] = ()

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, *args: Any) -> torch.Tensor:
        # Of all processes, in order, so that groups are in one piece; this process's rows come first on the main one.
        rewards: torch.Tensor = super()._calculate_rewards(inputs, prompts, completions, *args)
        values = [[None if math.isnan(value) else value for value in row] for row in rewards.tolist()]
        self.rollout = list(zip(inputs, completions, values, strict=False))
        mode = "train" if self.model.training else "eval"
        size = self.num_generations if mode == "train" else self.num_generations_eval
        weights = self.reward_weights.to(rewards.device)
        for name, share in frac_reward_zero_std(rewards, weights, self.reward_func_names, size).items():
            self._metrics[mode][f"frac_reward_zero_std/{name}"].append(share)
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.use_vllm and self.max_logp_difference is not None:
            mean = check_logp_difference(output, self.accelerator, self.max_logp_difference)
            if self.state.global_step == 0:
                self.accelerator.print(f"first rollout: mean |log p sampled - log p recomputed| {mean:.3g}")
        return output


def make_trainer(
    args: GRPOConfig, model_args: ModelConfig, rewards: list[Reward], data: Path, max_logp_difference: float | None
) -> LoggingGRPOTrainer:
    """The trainer, ready to run: prompts, pixels and length limit from the spec beside the weights."""
    name = model_args.model_name_or_path
    spec = load_spec(Path(name))
    processor = load_processor(name, spec)
    stored = load_rows(data / "rl.parquet", spec)
    require_applicable(rewards, stored.texts(), stored.file)
    rows = for_training(stored, spec, completions=False)
    init_deepspeed(args)
    model = load_model(name, model_args.dtype, model_args.attn_implementation, quantization(model_args))
    trainer = build_trainer(args, model_args, rewards, Inputs(model, processor, spec, rows))
    trainer.max_logp_difference = max_logp_difference
    trainer.add_callback(SamplePages(trainer))
    return trainer


def build_trainer(
    args: GRPOConfig, model_args: ModelConfig, rewards: Sequence[Reward], inputs: Inputs
) -> LoggingGRPOTrainer:
    """TRL's trainer on what is loaded: no token that stands for pixels is sampled, none beyond the spec's length."""
    model, processor = inputs.model, inputs.processor
    args.max_completion_length = inputs.spec.max_new_tokens
    # This replaces TRL's own suppression of the image token, which is among these.
    args.generation_kwargs = {**(args.generation_kwargs or {}), **no_vision_tokens(processor, args.use_vllm)}
    trainer = LoggingGRPOTrainer(
        model=model,
        reward_funcs=list(rewards),
        args=args,
        train_dataset=inputs.rows,
        processing_class=processor,
        peft_config=get_peft_config(model_args),
        callbacks=[SpecBesideCheckpoints(inputs.spec)],
    )
    count = trained_parameters(trainer.model)
    trainer.accelerator.print(
        f"engine: {engine_name(trainer)}; attention: {model.config._attn_implementation}; "
        f"training {count:,} of {num_parameters(model):,} parameters"
    )
    return trainer


def train(
    args: GRPOConfig, model_args: ModelConfig, rewards: list[Reward], data: Path, max_logp_difference: float | None
) -> None:
    """Trains from the last complete checkpoint or from the start, and saves the adapter, or all weights where there is none."""
    output = Path(args.output_dir)
    trainer = make_trainer(args, model_args, rewards, data, max_logp_difference)
    train_to_end(trainer, output)
    save_trained(trainer, output, load_spec(Path(model_args.model_name_or_path)))
    free_memory_and_shutdown(trainer)


def check(args: GRPOConfig, model_args: ModelConfig, recipe: Path) -> None:
    """Times `args.max_steps` steps at the sizes of `recipe`, on random weights and rows, completions at their full length."""
    init_deepspeed(args)
    inputs = random_inputs(recipe, model_args, quantization(model_args), args.seed, completions=False)
    args.generation_kwargs = {"min_new_tokens": inputs.spec.max_new_tokens}
    meter = StepMeter(args.max_steps)
    time_steps(build_trainer(args, model_args, [meter.reward], inputs), recipe, meter)
