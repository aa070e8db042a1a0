"""Starting a stage as two processes under an engine of recipes/accelerate, as `accelerate launch` does."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, quiet

PROCESSES = 2

# engine -> the class of the wrapped model, ZeRO's stage, and whether a process holds only its part of the weights
ENGINES = {
    "ddp": ("DistributedDataParallel", None, False),
    "zero2": ("DeepSpeedEngine", 2, False),
    "zero3": ("DeepSpeedEngine", 3, True),
    "fsdp2": ("FSDP", None, True),
}


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def environment() -> dict[str, str]:
    """The stage's environment, with the interpreter's folder in front: DeepSpeed looks for ninja there."""
    return {**quiet(), "PATH": f"{Path(sys.executable).parent}:{quiet()['PATH']}"}


def run_under(engine: str, module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs `-m tests.accelerate.run MODULE ...` as two processes under recipes/accelerate/ENGINE.yaml ("single": one)."""
    launcher = ["-m", "accelerate.commands.launch", "--config_file", f"recipes/accelerate/{engine}.yaml"]
    launcher += ["--num_processes", "1" if engine == "single" else str(PROCESSES)]
    launcher += ["--main_process_port", str(free_port()), "-m", "tests.accelerate.run", module, *map(str, arguments)]
    return subprocess.run(
        [sys.executable, *launcher], cwd=ROOT, capture_output=True, text=True, check=False, env=environment()
    )


def check_engine(engine: str, output: Path) -> None:
    """Asserts that the run in `output` was of two processes, each under `engine`."""
    wrapped, stage, divided = ENGINES[engine]
    records = [json.loads(file.read_text()) for file in sorted(output.glob("engine-*.json"))]
    assert [record["processes"] for record in records] == [PROCESSES] * PROCESSES
    for record in records:
        assert record["wrapped"].startswith(wrapped) and record["zero_stage"] == stage
        assert (record["held"] < 0.6 * record["parameters"]) == divided
