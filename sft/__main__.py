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

from pipeline.errors import one_line_errors
from pipeline.fingerprint import already_made, begin, finish, hash_files, hash_model
from pipeline.folders import need
from pipeline.recipe import parse_stage


@dataclass
class DataArguments:
    """Options of the stage that are neither TRL's nor the model's."""

    data_dir: str = field(metadata={"help": "Folder that the data stage wrote."})
    fresh: bool = field(default=False, metadata={"help": "Start over, whatever is in output_dir."})


@one_line_errors
def main() -> None:
    from accelerate import PartialState
    from trl import ModelConfig, SFTConfig

    from training.engine import check_processes, end_connection, from_main

    (args, data_args, model_args), recipe = parse_stage((SFTConfig, DataArguments, ModelConfig))
    check_processes(args)
    data, output = need(Path(data_args.data_dir), "data"), Path(args.output_dir)

    def begun() -> dict[str, Any] | None:
        """The fingerprint of a run that is to start or to go on; None for a finished one."""
        fingerprint = {
            "recipe": recipe,
            "data": {split: hash_files(need(data / f"{split}.parquet", "data")) for split in ("train", "validation")},
            "spec": hash_files(need(data / "verdict.json", "data")),
            "model": hash_model(model_args.model_name_or_path),
        }
        if already_made(output, fingerprint, data_args.fresh):
            return None
        begin(output, fingerprint)
        return fingerprint

    fingerprint = from_main(begun)
    if fingerprint is None:
        end_connection()
        return

    from sft.train import train

    train(args, model_args, data)
    if PartialState().is_main_process:
        finish(output, fingerprint)


if __name__ == "__main__":
    main()
