"""Wrong launches as real processes: one line, in the first seconds, by whichever process can know."""

import subprocess
import sys

import pytest

from tests.accelerate.launched import environment, free_port
from tests.conftest import ROOT, write_recipe

pytestmark = pytest.mark.slow


def launch(*options, **more):
    """A launcher and what it starts; `more` are further variables."""
    command = [sys.executable, "-m", "torch.distributed.run", *map(str, options)]
    return subprocess.Popen(
        command, cwd=ROOT, env={**environment(), **more}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def errors(stderr):
    return [line for line in stderr.splitlines() if line.startswith("error: ")]


def test_an_error_of_all_processes_is_printed_once(tmp_path):
    recipe = write_recipe(
        tmp_path / "sft.yaml",
        "sft",
        data_dir=str(tmp_path / "data"),
        output_dir=str(tmp_path / "out"),
        ddp_backend="gloo",
    )
    process = launch("--nproc_per_node", 2, "--master_port", free_port(), "-m", "sft", "--config", recipe)
    _, stderr = process.communicate(timeout=240)
    assert process.returncode != 0
    assert errors(stderr) == [f"error: {tmp_path / 'data'} is not there: run 'make data' first (with the same RECIPE)"]
    assert not (tmp_path / "out").exists()


def test_a_variable_that_the_second_node_lacks_is_named(tmp_path, small_data):
    """Two nodes, each with its own launcher, on this machine."""
    recipe = write_recipe(
        tmp_path / "sft.yaml", "sft", data_dir=str(small_data), output_dir=str(tmp_path / "out"), ddp_backend="gloo"
    )
    address = ["--master_addr", "127.0.0.1", "--master_port", free_port()]
    stage = ["-m", "sft", "--config", recipe]
    nodes = [["--nnodes", 2, "--nproc_per_node", 1, "--node_rank", rank, *address, *stage] for rank in (0, 1)]
    first, second = launch(*nodes[0], NCCL_IB_HCA="mlx5_0"), launch(*nodes[1])
    stderrs = [process.communicate(timeout=240)[1] for process in (first, second)]
    assert first.returncode != 0 and second.returncode != 0
    assert errors(stderrs[0]) == [] and len(errors(stderrs[1])) == 1
    assert "not set here, but on the first node: NCCL_IB_HCA=mlx5_0" in errors(stderrs[1])[0]
