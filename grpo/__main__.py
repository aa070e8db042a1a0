"""Stage 2: refines stage 1's merged weights with TRL's GRPOTrainer on verifiable rewards, with a fresh adapter.

    python -m grpo --config recipes/tiny/grpo.yaml [--any_option value]
    torchrun --nproc_per_node 8 -m grpo --config recipes/NAME/grpo.yaml

Reads the data stage's `rl` rows and the `verdict.json` beside the weights; writes checkpoints, `samples/` and `adapter/`
into `output_dir`. Killed, it goes on from the last complete checkpoint when started again. With `--random_weights
--max_steps 4` it times a few steps on weights and rows made up on the spot, and keeps nothing else.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.fingerprint import FILE_NAME, hash_model, hash_rows
from pipeline.folders import require, require_finished, stage_output
from pipeline.recipe import check_options, parse_stage, read_options, recipe_file, require_model
from spatial_edit_reward import load_spec
from spatial_edit_reward.errors import UserError, one_line_errors
from spatial_edit_reward.schema import DEFAULT_SCORE_RANGE


@dataclass
class RewardArguments:
    """Options of the stage that are neither TRL's nor the model's."""

    data_dir: str = field(metadata={"help": "Folder that the data stage wrote, or `make mine`."})
    reward_funcs: list[str] = field(
        metadata={
            "help": "Rewards: a built-in name (`python -m rewards_fn score --help` lists them), judge, trl:NAME, "
            "package.module:function, or one of these with its keywords as a mapping. reward_weights is of equal length."
        },
    )
    max_logp_difference: float | None = field(
        default=0.05,
        metadata={
            "help": "Stop where the mean |log p sampled by vLLM - log p recomputed| of a rollout is above it: vLLM then has "
            "other weights or prompts. In bf16 0.01 to 0.04 is rounding, in float32 1e-6. null: no check."
        },
    )
    overwrite: bool = field(default=False, metadata={"help": "Start over: remove what the stage wrote in output_dir."})
    random_weights: bool = field(
        default=False, metadata={"help": "Time steps on random weights and rows: needs no data and no earlier stage."}
    )


def check_save_steps(args: Any) -> None:
    """Raises UserError where a checkpoint could fall inside a generation buffer: resumed there, a run would differ."""
    if args.save_strategy == "no":
        return
    every = args.steps_per_generation * args.num_iterations
    steps = args.save_steps if args.save_strategy == "steps" and float(args.save_steps).is_integer() else None
    if steps is None or int(steps) * args.gradient_accumulation_steps % every:
        raise UserError(
            f"save_steps: {args.save_steps} (save_strategy {args.save_strategy}) x gradient_accumulation_steps "
            f"{args.gradient_accumulation_steps} must be a multiple of steps_per_generation {args.steps_per_generation} "
            f"x num_iterations {args.num_iterations}: elsewhere a resumed run would not be the same run"
        )


def check_rollouts(args: Any, model_args: Any, max_logp_difference: float | None) -> None:
    """Raises UserError where vLLM could not be given the trained weights, or its log-probabilities not be compared."""
    if args.use_vllm and (model_args.load_in_4bit or model_args.load_in_8bit):
        raise UserError(
            "use_vllm: at every step the adapter would be merged into the quantized weights, which rounds them anew: set "
            "use_vllm: false, or load_in_4bit and load_in_8bit: false"
        )
    if max_logp_difference is None:
        return
    if not max_logp_difference > 0:
        raise UserError(f"max_logp_difference: {max_logp_difference} is not above 0; null leaves out the check")
    if args.use_vllm and not args.vllm_importance_sampling_correction:
        raise UserError(
            "max_logp_difference: log-probabilities are recomputed under vllm_importance_sampling_correction: true alone; "
            "set that, or max_logp_difference: null"
        )


def check_inputs(options: dict[str, Any]) -> None:
    """Raises UserError where an earlier stage of the recipe did not run, or not to its end."""
    if "model_name_or_path" in options:
        model = require(Path(options["model_name_or_path"]), "sft")
        if model.name == "merged":
            require_finished(model.parent, "sft")
    if "data_dir" in options:
        data = Path(options["data_dir"])
        require(data, "mine" if data.name == "mine" else "data")
        if data.name == "mine" and (data / FILE_NAME).exists():
            require_finished(data, "mine")


@one_line_errors
def main() -> None:
    options = read_options(("GRPOConfig", "ModelConfig"), RewardArguments)
    checking = str(options.get("random_weights")).lower() == "true"
    if not checking:
        check_inputs(options)

    from trl import GRPOConfig, ModelConfig

    from pipeline.distributed import check_processes, destroy_process_group, on_main_process
    from rewards_fn import load_rewards

    arguments = [*sys.argv[1:], *(check_options(options, "grpo") if checking else [])]
    (args, stage_args, model_args), recipe = parse_stage((GRPOConfig, RewardArguments, ModelConfig), arguments)
    check_save_steps(args)
    check_rollouts(args, model_args, stage_args.max_logp_difference)
    if not checking:
        require_model(model_args, recipe_file(arguments))
    score_range = DEFAULT_SCORE_RANGE if checking else load_spec(Path(model_args.model_name_or_path)).score_range
    try:
        rewards = load_rewards(stage_args.reward_funcs, score_range)
    except ValueError as error:
        raise UserError(str(error)) from None
    if args.reward_weights is not None and len(args.reward_weights) != len(rewards):
        raise UserError(f"reward_weights: {len(args.reward_weights)} weights for {len(rewards)} reward_funcs")
    check_processes(args)
    if checking:
        from grpo.train import check

        check(args, model_args, recipe_file(arguments))
        return
    data = Path(stage_args.data_dir)

    def fingerprint() -> dict[str, Any]:
        return {
            "recipe": recipe,
            "data": {"rl": hash_rows(require(data / "rl.parquet", "data"))},
            "model": hash_model(model_args.model_name_or_path),
        }

    made = ["adapter" if model_args.use_peft else "weights"]
    with stage_output(
        Path(args.output_dir), fingerprint, overwrite=stage_args.overwrite, outputs=made, on_main=on_main_process
    ) as output:
        if output is None:
            destroy_process_group()
            return

        from grpo.train import train

        train(args, model_args, rewards, data, stage_args.max_logp_difference)


if __name__ == "__main__":
    main()
