"""Stage 1: LoRA-tunes the base on verdicts with TRL's SFTTrainer, and ends with verified merged weights.

    python -m sft --config recipes/tiny/sft.yaml [--any_option value]
    torchrun --nproc_per_node 8 -m sft --config recipes/NAME/sft.yaml

Reads the data stage's `train` and `validation` rows and `verdict.json`; writes checkpoints, `adapter/` and `merged/` into
`output_dir`. Killed, it goes on from the last whole checkpoint when started again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.fingerprint import hash_files, hash_model, is_up_to_date, mark_finished, mark_started
from pipeline.folders import require
from pipeline.recipe import parse_stage
from spatial_edit_reward.errors import one_line_errors


@dataclass
class DataArguments:
    """Options of the stage that are neither TRL's nor the model's."""

    data_dir: str = field(metadata={"help": "Folder that the data stage wrote."})
    overwrite: bool = field(default=False, metadata={"help": "Start over, whatever is in output_dir."})


@one_line_errors
def main() -> None:
    from accelerate import PartialState
    from trl import ModelConfig, SFTConfig

    from pipeline.distributed import check_processes, destroy_process_group, on_main_process

    (args, data_args, model_args), recipe = parse_stage((SFTConfig, DataArguments, ModelConfig))
    check_processes(args)
    data, output = require(Path(data_args.data_dir), "data"), Path(args.output_dir)

    def begun() -> dict[str, Any] | None:
        """The fingerprint of a run that is to start or to go on; None for a finished one."""
        fingerprint = {
            "recipe": recipe,
            "data": {
                split: hash_files(require(data / f"{split}.parquet", "data")) for split in ("train", "validation")
            },
            "spec": hash_files(require(data / "verdict.json", "data")),
            "model": hash_model(model_args.model_name_or_path),
        }
        if is_up_to_date(output, fingerprint, data_args.overwrite):
            return None
        mark_started(output, fingerprint)
        return fingerprint

    fingerprint = on_main_process(begun)
    if fingerprint is None:
        destroy_process_group()
        return

    from sft.train import train

    train(args, model_args, data)
    if PartialState().is_main_process:
        mark_finished(output, fingerprint)


if __name__ == "__main__":
    main()
