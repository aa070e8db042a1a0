"""What `pip install` gives another project: a wheel is built and unpacked, and its commands run from somewhere else."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.conftest import ROOT

REFERENCE = {"edit_region": [{"id": 0, "label": "cup", "bbox_2d": [0, 0, 100, 100]}], "score": [20, 10]}
VERDICT = {**REFERENCE, "reasoning": "<|bbox_0|> the cup is red. <|global|> it was done well."}
VERDICT = {key: VERDICT[key] for key in ("edit_region", "reasoning", "score")}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The unpacked wheel, built from a copy, so that nothing is left in the checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for path in ROOT.iterdir():
        if (path / "__init__.py").exists():  # every package, so that a wheel that takes too many is seen
            shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(path, source)
    build = "import setuptools.build_meta as backend, sys; print(backend.build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, target], cwd=source, capture_output=True, text=True, check=True)
    wheel = target / done.stdout.splitlines()[-1]
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(target)
    wheel.unlink()
    return target


@pytest.fixture
def run(installed, tmp_path):
    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        command = [sys.executable, "-m", "rewards_fn", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def test_only_our_two_names_are_installed_with_all_that_is_in_them(installed):
    top = {path.name for path in installed.iterdir()}
    assert top == {"spatial_edit_reward", "rewards_fn", "spatial_edit_reward-0.1.0.dist-info"}
    for name in ("spatial_edit_reward", "rewards_fn"):
        for file in (ROOT / name).rglob("*"):
            if file.suffix in (".py", ".j2"):
                assert (installed / file.relative_to(ROOT)).is_file(), file


def test_the_commands_run_from_the_installed_package(run, installed, tmp_path):
    rows = tmp_path / "rows.jsonl"
    row = {"task": "sc", "completion": json.dumps(VERDICT), "reference": REFERENCE}
    rows.write_text("".join(json.dumps(row) + "\n" for _ in range(4)))
    names = ["--rewards", "box_iou,score_agreement,format"]
    scored = run("score", rows, *names)
    assert scored.returncode == 0, scored.stderr
    rewards = [json.loads(line)["rewards"] for line in scored.stdout.splitlines()]
    assert rewards == [{"box_iou": 1.0, "score_agreement": 1.0, "format": 1.0}] * 4
    audited = run("audit", rows, *names, "--weights", 2, 1, 1)
    assert "noisy oracle: 0% noise" in audited.stdout and "Traceback" not in audited.stderr
    recipe = run("audit", rows, "--config", ROOT / "recipes" / "tiny" / "grpo.yaml")
    assert recipe.returncode == 1 and len(recipe.stderr.splitlines()) == 1
    assert "--config needs a checkout" in recipe.stderr
