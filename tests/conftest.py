"""The tiny base, and small real datasets and recipes, for the tests."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

if "PYTEST_XDIST_WORKER" in os.environ:  # `make test`: a core each
    os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).parent.parent
BASE = ROOT / "recipes" / "tiny" / "base"


@pytest.fixture(scope="session")
def tiny_processor():
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(BASE, padding_side="left")


def run_stage(*arguments: object, **options):
    """Runs `python -m ...` from the repository's root as a user would; returns the finished process, output captured."""
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=quiet(), **options)


def quiet() -> dict[str, str]:
    """The environment of a stage in a test: one thread, so that float sums come out alike, and no look at the Hub."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "WANDB_MODE": "offline",
    }


def write_recipe(file: Path, stage: str, **changes: object) -> Path:
    """The tiny recipe of `stage`, with changes, as a new file; `...` removes a key."""
    from pipeline.recipe import read_yaml

    recipe = {**read_yaml(ROOT / "recipes" / "tiny" / f"{stage}.yaml"), **changes}
    file.write_text(yaml.safe_dump({key: value for key, value in recipe.items() if value is not ...}))
    return file


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> Path:
    """The data stage's output at a size for tests: 6 groups to train on, 2 of every other split."""
    folder = tmp_path_factory.mktemp("run") / "data"
    recipe = write_recipe(
        folder.parent / "data.yaml",
        "data",
        output_dir=str(folder),
        synthetic_groups={"train": 6, "validation": 1, "rl": 3, "heldout": 2},
        subsample=...,
        max_new_tokens=24,
        processes=1,
    )
    done = run_stage("data", "--config", recipe)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def endpoint(monkeypatch):
    """A running `tests.endpoint.Endpoint`."""
    from tests.endpoint import Endpoint

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()
