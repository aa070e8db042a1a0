"""Stage 1: LoRA-tunes the base on verdicts with TRL's SFTTrainer, and ends with verified merged weights.

    python -m sft --config recipes/tiny/sft.yaml [--any_option value]
    torchrun --nproc_per_node 8 -m sft --config recipes/NAME/sft.yaml

Reads the data stage's `train` and `validation` rows and `verdict.json`; writes checkpoints, `adapter/` and `merged/` into
`output_dir`. Killed, it goes on from the last complete checkpoint when started again. With `--random_weights --max_steps 4`
it times a few steps on weights and rows made up on the spot, and keeps nothing else.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.fingerprint import hash_files, hash_model, hash_rows
from pipeline.folders import require, stage_output
from pipeline.recipe import check_options, parse_stage, read_options, recipe_file, require_model
from spatial_edit_reward.errors import one_line_errors


@dataclass
class DataArguments:
    """Options of the stage that are neither TRL's nor the model's."""

    data_dir: str = field(metadata={"help": "Folder that the data stage wrote."})
    overwrite: bool = field(default=False, metadata={"help": "Start over: remove what the stage wrote in output_dir."})
    random_weights: bool = field(
        default=False,
        metadata={"help": "Time steps on random weights and rows: needs no data and no download of weights."},
    )


@one_line_errors
def main() -> None:
    options = read_options(("SFTConfig", "ModelConfig"), DataArguments)
    checking = str(options.get("random_weights")).lower() == "true"
    if "data_dir" in options and not checking:
        require(Path(options["data_dir"]), "data")

    from trl import ModelConfig, SFTConfig

    from pipeline.distributed import check_processes, destroy_process_group, on_main_process

    arguments = [*sys.argv[1:], *(check_options(options, "sft") if checking else [])]
    (args, data_args, model_args), recipe = parse_stage((SFTConfig, DataArguments, ModelConfig), arguments)
    if not checking:
        require_model(model_args, recipe_file(arguments))
    check_processes(args)
    if checking:
        from sft.train import check

        check(args, model_args, recipe_file(arguments))
        return
    data = Path(data_args.data_dir)

    def fingerprint() -> dict[str, Any]:
        rows = {split: hash_rows(require(data / f"{split}.parquet", "data")) for split in ("train", "validation")}
        return {
            "recipe": recipe,
            "data": rows,
            "spec": hash_files(require(data / "verdict.json", "data")),
            "model": hash_model(model_args.model_name_or_path),
        }

    made = ["adapter" if model_args.use_peft else "weights", "merged"]
    with stage_output(
        Path(args.output_dir), fingerprint, overwrite=data_args.overwrite, outputs=made, on_main=on_main_process
    ) as output:
        if output is None:
            destroy_process_group()
            return

        from sft.train import train

        train(args, model_args, data)


if __name__ == "__main__":
    main()
