"""The command line: made of the options' models, checked before anything slow is imported."""

import os
import subprocess
import sys

import pytest

from evaluation.options import VERBS, BenchmarkConfig, ScoreConfig, parse_options
from tests.conftest import ROOT, quiet

BENCH = ["bench", "mmrb2", "--config", "eval.yaml", "--model", "m"]


def parse(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["evaluation", *map(str, arguments)])
    return parse_options("")


def test_values_become_what_the_fields_are(monkeypatch):
    options = [
        "--samples",
        "4",
        "--temperature",
        "0.5",
        "--prices",
        "2",
        "8",
        "--extra-body",
        '{"a": [1]}',
        "--partial",
    ]
    config = parse(monkeypatch, *BENCH, *options)
    assert isinstance(config, BenchmarkConfig) and config.batch_size is None and not config.overwrite
    assert (config.samples, config.temperature, config.prices) == (4, 0.5, (2.0, 8.0))
    assert config.extra_body == {"a": [1]} and config.partial
    config = parse(monkeypatch, "score", "mmrb2", "x.json", "--benchmark-rows", "rows.jsonl", "--json")
    assert isinstance(config, ScoreConfig) and config.json_output and config.benchmark_rows.name == "rows.jsonl"


def test_an_instruction_arrives_as_it_was_typed(monkeypatch, tmp_path):
    (tmp_path / "a.png").touch()
    options = ["--model", "m", "--source", tmp_path / "a.png", "--edited", tmp_path / "a.png", "--page", "p.html"]
    instruction = "Write '$20 \\n %s' {x} on \"it\"."
    assert parse(monkeypatch, "try", *options, "--instruction", instruction).instruction == instruction


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*BENCH, "--batch_size", "0"], "--batch_size: Input should be greater than 0, got '0'"),
        ([*BENCH, "--temperature", "hot"], "--temperature: Input should be a valid number"),
        ([*BENCH, "--extra_body", "{"], "--extra_body: Invalid JSON"),
        ([*BENCH, "--backend", "onnx"], "invalid choice: 'onnx'"),
        (["bench", "mmrb3"], "invalid choice: 'mmrb3'"),
        (["diagnose", "--config", "eval.yaml", "--model", "m", "--count", "0"], "--count: Input should be greater"),
    ],
)
def test_a_wrong_value_is_named_with_its_option(monkeypatch, capsys, arguments, message):
    from spatial_edit_reward.errors import UserError

    with pytest.raises((UserError, SystemExit)) as error:
        parse(monkeypatch, *arguments)
    assert message in f"{error.value} {capsys.readouterr().err}"


def test_every_option_is_explained(monkeypatch, capsys):
    for verb, options in VERBS.items():
        with pytest.raises(SystemExit):
            parse(monkeypatch, verb, "--help")
        shown = " ".join(capsys.readouterr().out.split())
        assert all(" ".join(field.description.split()) in shown for field in options.model_fields.values())


def test_options_are_checked_before_torch_is_imported():
    command = [sys.executable, "-X", "importtime", "-m", "evaluation", *BENCH, "--samples", "0"]
    environment = {**quiet(), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: --samples")
    modules = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "pydantic" in modules and not modules & {"torch", "transformers", "datasets", "scipy"}
