"""Runs a stage as one of several CPU processes, under an engine that accelerate would only start on GPUs.

    accelerate launch --config_file recipes/accelerate/ENGINE.yaml --num_processes 2 -m tests.accelerate.run STAGE --config FILE

What really ran, the number of processes and the class of the wrapped model, is written beside the output.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import Trainer

from pipeline.distributed import num_parameters


def plain_cpu() -> None:
    """Makes the device "cpu" without a number: transformers cannot load an optimizer's state onto "cpu:0" or "cpu:1"."""

    def set_device(self):
        self.device = torch.device("cpu")

    PartialState.set_device = set_device


def fsdp_on_cpu() -> None:
    """Lets accelerate's FSDP2 take CPU processes for GPU ones: it knows the engine for accelerators alone."""

    def prepare_backend(self, *arguments, **options):
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        return "gloo", DistributedType.MULTI_GPU

    PartialState._prepare_backend = prepare_backend


def part(parameter: torch.Tensor) -> torch.Tensor:
    """What this process holds of a parameter."""
    return parameter.to_local() if hasattr(parameter, "to_local") else getattr(parameter, "ds_tensor", parameter)


def record_engine() -> None:
    """Writes what runs on the first step, per process, as engine-RANK.json into the output folder."""
    step = Trainer.training_step

    def training_step(self, *arguments, **options):
        file = Path(self.args.output_dir) / f"engine-{self.args.process_index}.json"
        if not file.exists():
            plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
            record = {
                "processes": self.accelerator.num_processes,
                "wrapped": type(self.model_wrapped).__name__,
                "zero_stage": plugin and plugin.zero_stage,
                "parameters": num_parameters(self.model_wrapped),
                "held": sum(part(parameter).numel() for parameter in self.model_wrapped.parameters()),
            }
            file.write_text(json.dumps(record))
        return step(self, *arguments, **options)

    Trainer.training_step = training_step


if __name__ == "__main__":
    plain_cpu()
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        fsdp_on_cpu()
    record_engine()
    stage = sys.argv.pop(1)
    runpy.run_module(stage, run_name="__main__", alter_sys=True)
