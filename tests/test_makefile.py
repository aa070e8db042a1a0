"""What is written after `make VERB` reaches the program as it was written, in every verb."""

import json
import os
import re
import subprocess

import pytest

from tests.conftest import ROOT

# Alone and together: what make, the shell or an encoding could take for its own.
ODD = {
    "RECIPE": "my $recipe",
    "MODEL": 'runs/a "b" c/$HOME',
    "SOURCE": "it's $20.png",
    "EDITED": r"back\slash\\.png",
    "INSTRUCTION": 'Change the price to $20 (was $(date) or `id`): "sale", it\'s 50 % off # ürün 価格 \\n',
    "DATA": "a b/$$c",
    "REPO": "org/na$me",
    "REVISION": "v$1",
    "SPEC": "x 'y' $z",
    "BACKEND": "openai:$model@http://host/v1",
    "STAGE": "grpo $2",
    "GPU": "h$100",
    "ENGINE": "ze$ro",
    "AGGREGATION": "me$an",
}
FLAGS = {
    "check-source": {"SOURCE": "--check_source"},
    "plan": {"GPU": "--gpu", "ENGINE": "--engine"},
    "eval": {
        "MODEL": "--model",
        "DATA": "--data",
        "SPEC": "--spec",
        "BACKEND": "--backend",
        "AGGREGATION": "--aggregation",
    },
    "push": {"REPO": "--repo", "REVISION": "--revision"},
    "try": {"MODEL": "--model", "SOURCE": "--source", "EDITED": "--edited", "INSTRUCTION": "--instruction"},
    "diagnose": {"MODEL": "--model"},
}


# Without what a make that runs the tests would hand down: `make test`.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


@pytest.fixture
def make(tmp_path):
    """Runs `make` with an interpreter that writes down its arguments: returns them, a list for each call."""
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text(
        "#!/usr/bin/env python3\nimport json, sys\n"
        f"print(json.dumps(sys.argv[1:]), file=open({str(tmp_path / 'calls')!r}, 'a'))\n"
    )
    fake.chmod(0o755)
    (tmp_path / "ready").touch()

    def run(*verbs, environment=None, **values):
        (tmp_path / "calls").unlink(missing_ok=True)
        command = ["make", *verbs, f"VENV={tmp_path}", *(f"{name}={value}" for name, value in values.items())]
        subprocess.run(command, cwd=ROOT, check=True, env={**ENVIRONMENT, **(environment or {})})
        return [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]

    return run


@pytest.mark.parametrize("verb", FLAGS)
def test_a_value_reaches_the_program_as_it_was_written(make, verb):
    values = {name: ODD[name] for name in FLAGS[verb]} | ({"BENCH": "merbench"} if verb == "eval" else {})
    (call,) = make(verb, **values)
    for name, flag in FLAGS[verb].items():
        assert call[call.index(flag) + 1] == ODD[name]
    (call,) = make(verb, environment=values)
    for name, flag in FLAGS[verb].items():
        assert call[call.index(flag) + 1] == ODD[name]


@pytest.mark.parametrize(
    "verb",
    ["data", "sft", "mine", "grpo", "merge", "eval", "report", "push", "diagnose", "reward-audit", "try", "plan"],
)
def test_every_verb_reads_the_recipe_and_the_run_of_an_odd_name(make, verb):
    (call,) = make(verb, RECIPE=ODD["RECIPE"])
    assert any(argument.startswith((f"recipes/{ODD['RECIPE']}", f"runs/{ODD['RECIPE']}")) for argument in call), call


def test_options_are_words_that_nobody_expands(make):
    (call,) = make("plan", STAGE=ODD["STAGE"], OPTIONS="--run_name $20 --glob *")
    assert call[2:] == [f"recipes/tiny/{ODD['STAGE']}.yaml", "--run_name", "$20", "--glob", "*"]
    (call,) = make("rehearse", RECIPE=ODD["RECIPE"], WEIGHTS="random $full", OVERWRITE="1")
    assert call == ["-m", "tools.rehearse", f"recipes/{ODD['RECIPE']}", "--weights", "random $full", "--overwrite"]


def test_the_demo_hands_every_value_on(make):
    calls = make("demo", RECIPE=ODD["RECIPE"], OVERWRITE="1")
    assert [call[1] for call in calls] == ["data", "sft", "grpo", "export", "evaluation", "evaluation"]
    assert calls[0] == ["-m", "data", "--config", f"recipes/{ODD['RECIPE']}/data.yaml", "--overwrite"]
    assert calls[1][-2:] == ["--overwrite", "true"]


def test_flags_are_off_unless_given(make):
    assert make("data") == [["-m", "data", "--config", "recipes/tiny/data.yaml"]]
    assert make("push", REPO="a/b", PRIVATE="1", CONFIRM="1")[0][2:] == [
        "push",
        "runs/tiny",
        "--repo",
        "a/b",
        "--private",
        "--confirm",
    ]
    assert make("try", SOURCE="a", EDITED="b", INSTRUCTION="c")[0][3:5] == ["--model", "runs/tiny/merge"]


def test_merge_takes_the_weights_of_a_stage_2_without_lora(make, tmp_path, monkeypatch):
    command = re.search(r"^merge:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)[1]
    assert "grpo/weights" in command
    run = tmp_path / "runs" / "full" / "grpo" / "weights"
    run.mkdir(parents=True)
    (ROOT / "runs").mkdir(exist_ok=True)  # make resolves `runs/../..` only where there is one
    name = os.path.relpath(tmp_path / "runs" / "full", ROOT / "runs")
    (call,) = make("merge", RECIPE=name)
    assert call[call.index("--checkpoint") + 1] == f"runs/{name}/grpo/weights" and "--adapter" not in call


def test_help_lists_every_verb():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    listed = {line.split()[0] for line in done.stdout.splitlines()[1:]}
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert listed == set(phony)
    assert listed >= {
        "demo",
        "data",
        "sft",
        "mine",
        "grpo",
        "merge",
        "eval",
        "report",
        "push",
        "rehearse",
        "test",
        "test-all",
    }
