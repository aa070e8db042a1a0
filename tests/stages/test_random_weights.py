"""A few steps of either stage on random weights and rows, at the sizes of a recipe: what is written, and nothing else is."""

import importlib
import json
import sys

import pytest
import yaml

from tests.conftest import ROOT, write_recipe

pytestmark = pytest.mark.slow


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a stage in this process on `recipes/shrunk`; returns what it wrote, and asserts that it wrote nothing else."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "recipes" / "shrunk"
    folder.mkdir(parents=True)

    def stage(name, *arguments):
        argv = [
            name,
            "--config",
            str(folder / f"{name}.yaml"),
            "--random_weights",
            "--output_dir",
            str(tmp_path / "run" / name),
        ]
        monkeypatch.setattr(sys, "argv", [*argv, *arguments])
        importlib.import_module(f"{name}.__main__").main()
        assert [path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*.*")] == [
            f"timing/{name}.json"
        ]
        return json.loads((tmp_path / "run" / "timing" / f"{name}.json").read_text())

    stage.folder = folder
    return stage


def tiny(folder, **changes):
    """The tiny recipe's files, with shorter completions."""
    write_recipe(folder / "data.yaml", "data", max_new_tokens=12)
    for stage in ("sft", "grpo"):
        write_recipe(folder / f"{stage}.yaml", stage, **changes)


def test_dtype_auto_is_that_of_the_configuration():
    import torch
    from transformers import AutoConfig
    from trl import ModelConfig

    from pipeline.random_weights import random_model

    config = AutoConfig.from_pretrained(ROOT / "recipes" / "tiny" / "base")
    for stored in (torch.bfloat16, None):
        config.dtype = config.text_config.dtype = stored
        assert random_model(config, ModelConfig(dtype="auto"), None, 0).dtype == (stored or torch.float32)


def check(report, rows, steps):
    assert report["rows"] == rows and len(report["all_seconds"]) == steps
    assert min(report["all_seconds"][1:-1]) <= report["seconds"] <= max(report["all_seconds"][1:-1])
    assert report["card"] == {"name": "cpu", "memory_bytes": None}
    assert report["model"]["dtype"] == "float32" and report["model"]["attention"] == "sdpa"
    assert 0 < report["model"]["trained"] < report["model"]["parameters"]
    assert report["operations_per_second"] == pytest.approx(report["operations"] / report["seconds"])
    assert 2**28 < report["peak_bytes"] < 2**36


def test_stage_1(run, capsys):
    tiny(run.folder, per_device_train_batch_size=2)
    report = run("sft")
    check(report, rows=2, steps=4)
    assert "rollout" not in report and "TFLOP/s" in capsys.readouterr().out
    # twice the work for twice the rows
    more = run("sft", "--gradient_accumulation_steps", "2", "--max_steps", "3")
    check(more, rows=4, steps=3)
    assert more["operations"] == pytest.approx(2 * report["operations"], rel=0.01)


def test_stage_2_samples_completions_of_full_length(run):
    tiny(run.folder, per_device_train_batch_size=8)
    report = run("grpo", "--max_steps", "3")
    check(report, rows=8, steps=3)
    assert 0 < report["rollout"]["operations"] < report["operations"]
    assert 0 < report["rollout"]["seconds"] < report["seconds"]


def test_a_model_whose_processor_cannot_be_fetched(run):
    """The 2B's recipe on a configuration with few and narrow layers, and with Qwen's tokenizer from a package."""
    config = json.loads((ROOT / "recipes" / "spatialreward-2b" / "config.json").read_text())
    config["text_config"] |= {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 64}
    config["text_config"] |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    config["text_config"]["rope_scaling"] = {**config["text_config"]["rope_scaling"], "mrope_section": [8, 4, 4]}
    config["vision_config"] |= {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 32,
        "out_hidden_size": 64,
    }
    config["vision_config"]["deepstack_visual_indexes"] = [0, 1]
    (run.folder / "config.json").write_text(json.dumps(config))
    (run.folder / "data.yaml").write_text(
        yaml.safe_dump({"extends": str(ROOT / "recipes" / "spatialreward-2b" / "data.yaml")})
    )
    here = {
        "use_cpu": True,
        "bf16": False,
        "dtype": "float32",
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
    }
    parent = str(ROOT / "recipes" / "spatialreward-2b" / "sft.yaml")
    (run.folder / "sft.yaml").write_text(yaml.safe_dump({"extends": parent, "max_steps": 3, **here}))
    report = run("sft", "--max_steps", "3")
    check(report, rows=1, steps=3)
    assert report["model"]["parameters"] > 151936 * 64


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_too_few_steps_are_one_line(run, stage):
    tiny(run.folder, per_device_train_batch_size=8)
    with pytest.raises(SystemExit, match="max_steps: 2: a warm-up, a step that is timed"):
        run(stage, "--max_steps", "2")
