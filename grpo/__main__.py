"""Stage 2: refines stage 1's merged weights with TRL's GRPOTrainer on verifiable rewards, with a fresh adapter.

    python -m grpo --config recipes/tiny/grpo.yaml [--any_option value]
    torchrun --nproc_per_node 8 -m grpo --config recipes/NAME/grpo.yaml

Reads the data stage's `rl` rows and the `verdict.json` beside the weights; writes checkpoints, `samples/` and `adapter/`
into `output_dir`. Killed, it goes on from the last whole checkpoint when started again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.fingerprint import hash_files, hash_model, is_finished, is_up_to_date, mark_finished, mark_started
from pipeline.folders import require
from pipeline.recipe import parse_stage
from spatial_edit_reward.errors import UserError, one_line_errors


@dataclass
class RewardArguments:
    """Options of the stage that are neither TRL's nor the model's."""

    data_dir: str = field(metadata={"help": "Folder that the data stage wrote."})
    reward_funcs: list[str] = field(
        metadata={
            "help": "Rewards: a name (box_iou, score_agreement, format, judge), trl:NAME, package.module:function, or one of "
            "these with its keywords as a mapping. reward_weights is of equal length."
        },
    )
    overwrite: bool = field(default=False, metadata={"help": "Start over, whatever is in output_dir."})


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


@one_line_errors
def main() -> None:
    from accelerate import PartialState
    from trl import GRPOConfig, ModelConfig

    from pipeline.distributed import check_processes, destroy_process_group, on_main_process
    from rewards_fn import load_rewards

    (args, stage_args, model_args), recipe = parse_stage((GRPOConfig, RewardArguments, ModelConfig))
    check_save_steps(args)
    try:
        rewards = load_rewards(stage_args.reward_funcs)
    except ValueError as error:
        raise UserError(str(error)) from None
    if args.reward_weights is not None and len(args.reward_weights) != len(rewards):
        raise UserError(f"reward_weights: {len(args.reward_weights)} weights for {len(rewards)} reward_funcs")
    check_processes(args)
    model = require(Path(model_args.model_name_or_path), "sft")
    if model.name == "merged" and not is_finished(model.parent):
        raise UserError(f"{model.parent} is not finished: run 'make sft' first (with the same RECIPE)")
    data, output = require(Path(stage_args.data_dir), "data"), Path(args.output_dir)

    def begun() -> dict[str, Any] | None:
        """The fingerprint of a run that is to start or to go on; None for a finished one."""
        fingerprint = {
            "recipe": recipe,
            "data": {"rl": hash_files(require(data / "rl.parquet", "data"))},
            "model": hash_model(str(model)),
        }
        if is_up_to_date(output, fingerprint, stage_args.overwrite):
            return None
        mark_started(output, fingerprint)
        return fingerprint

    fingerprint = on_main_process(begun)
    if fingerprint is None:
        destroy_process_group()
        return

    from grpo.train import train

    train(args, model_args, rewards, data)
    if PartialState().is_main_process:
        mark_finished(output, fingerprint)


if __name__ == "__main__":
    main()
