"""The plan of whole recipes, and its errors for one that would not run: every message names the line to change."""

import shutil
import sys

import pytest
import yaml

from spatial_edit_reward import Spec, load_spec
from spatial_edit_reward.errors import UserError
from tests.conftest import BASE, ROOT

SPEC = Spec(pixels={"min": 4096, "max": 262144, "multiple": 32}, max_new_tokens=1024)


MODELS = {}


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    """At the repository's root, and building each meta model once."""
    from trl import ModelConfig

    from tools.plan import report
    from tools.plan.model import meta_model

    def remembered(config, options):
        chosen = [
            f"{name}={options[name]}" for name in ModelConfig.__dataclass_fields__ if name != "model_name_or_path"
        ]
        key = config.to_json_string(), *chosen
        if key not in MODELS:
            MODELS[key] = meta_model(config, options)
        return MODELS[key]

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(report, "meta_model", remembered)


def planned(name, stage, gpu=None, gpus=None, engine=None, environment=(), **changes):
    from tools.plan.report import load_setting, plan_stage
    from tools.plan.stage import load_stage

    folder = ROOT / "recipes" / name
    setting = load_setting(load_stage(folder / f"{stage}.yaml", changes), folder, gpu, gpus, engine)
    return plan_stage(setting, dict(environment))


def errors(plan):
    return [problem.text for problem in plan.problems if problem.level == "error"]


def warnings(plan):
    return [problem.text for problem in plan.problems if problem.level == "warning"]


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("spatialreward-8b", "sft"),
        ("spatialreward-8b", "grpo"),
        ("spatialreward-8b", "grpo-paper"),
        ("spatialreward-8b-qlora", "sft"),
        ("spatialreward-8b-qlora", "grpo"),
        ("spatialreward-4b", "grpo"),
        ("spatialreward-2b", "sft"),
        ("tiny", "sft"),
        ("tiny", "grpo"),
    ],
)
def test_every_recipe_fits_the_hardware_it_is_for(name, stage):
    plan = planned(name, stage)
    assert not errors(plan)
    assert sum(plan.memory[0][1].values()) < plan.card.memory
    text = "\n".join(plan.lines)
    for title in ("hardware: ", "parameters: ", "rows: ", "steps: ", "operations: ", "time: ", "attention: "):
        assert title in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (("spatialreward-8b", "sft", "rtx4090-24gb", 1, "single"), {}),
            "which does not fit; what does: per_device_train_batch_size: ",
        ),
        ((("spatialreward-8b", "grpo-paper", "a100-40gb", 1, "single"), {}), "no batch does: ENGINE=zero3"),
        ((("spatialreward-8b", "sft"), {"engine": "single"}), "7 of 8 GPUs would idle: ENGINE=ddp"),
        (
            (("spatialreward-8b", "grpo"), {"gpus": 7, "num_generations": 3}),
            "num_generations: 3 does not divide the 112",
        ),
        ((("spatialreward-8b", "grpo"), {"num_generations": 1}), "at least 2"),
        ((("spatialreward-8b", "grpo"), {"vllm_max_model_length": 1024}), "vllm_max_model_length: 1024, but"),
        ((("spatialreward-8b", "grpo"), {"vllm_gpu_memory_utilization": 0.2}), "vllm_gpu_memory_utilization: no room"),
        ((("spatialreward-8b", "grpo"), {"vllm_gpu_memory_utilization": 0.95}), "sampling does not fit h100-80gb"),
        ((("spatialreward-8b", "grpo"), {"vllm_tensor_parallel_size": 3}), "vllm_tensor_parallel_size: 3"),
        ((("spatialreward-8b", "grpo"), {"steps_per_generation": 3, "save_steps": 5}), "save_steps: 5"),
        ((("spatialreward-8b", "grpo"), {"reward_weights": [1.0]}), "reward_weights: 1 weights for 3"),
        ((("spatialreward-8b", "grpo"), {"reward_funcs": ["box_iuo"]}), "unknown reward 'box_iuo'"),
        ((("spatialreward-8b", "grpo"), {"model_name_or_path": "runs/other"}), "runs/other is not there, and no stage"),
        ((("spatialreward-8b", "sft"), {"max_length": 8192}), "max_length: must be null"),
        ((("spatialreward-8b", "sft"), {"model_name_or_path": "nowhere"}), "neither a folder nor a Hub name"),
        ((("spatialreward-8b-qlora", "sft"), {"gpus": 8, "engine": "zero3"}), "4-bit weights cannot be divided"),
        ((("spatialreward-8b-qlora", "sft"), {"use_peft": False}), "load_in_4bit: weights in 4 bits"),
        ((("spatialreward-8b", "sft"), {"gpus": 9, "engine": "two-nodes"}), "9 GPUs cannot be divided among 2"),
    ],
)
def test_what_cannot_run_is_an_error(arguments, message):
    positional, named = arguments
    texts = errors(planned(*positional, **named))
    assert any(message in text for text in texts), texts
    assert all(text.startswith(str(ROOT / "recipes")) for text in texts)


def test_what_wastes_the_hardware_or_is_not_there_yet_is_a_warning():
    plain = planned("spatialreward-8b", "sft")
    assert any("train.parquet is not there yet: 'make data'" in text for text in warnings(plain))
    for changes, message in (
        (
            {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 32},
            "gradient_checkpointing: false would fit",
        ),
        ({"dtype": "float32"}, "dtype: float32"),
        ({"engine": "zero3"}, "try ENGINE=ddp"),
        ({"gpus": 4}, "launch with --num_processes 4"),
        ({"gpus": 16, "engine": "two-nodes"}, "--machine_rank, --main_process_ip"),
    ):
        assert any(message in text for text in warnings(planned("spatialreward-8b", "sft", **changes))), message
    there = planned("spatialreward-8b", "sft", None, 16, "two-nodes", {"MASTER_ADDR": "a", "MASTER_PORT": "1"}.items())
    assert not any("--machine_rank" in text for text in warnings(there))
    sampled = planned("spatialreward-8b", "grpo", top_p=0.9, vllm_importance_sampling_mode="sequence_mask")
    assert any("top_p, top_k" in text for text in warnings(sampled))
    assert any("token_truncate" in text for text in warnings(sampled))


def test_advice_that_is_followed_fits():
    import re

    (text,) = errors(planned("spatialreward-8b", "sft", "a6000-48gb", 8, per_device_train_batch_size=64))
    batch, steps = map(int, re.findall(r"(?:batch_size|accumulation_steps): (\d+)", text))
    assert batch * steps == 64 * 4
    followed = planned(
        "spatialreward-8b", "sft", "a6000-48gb", 8, per_device_train_batch_size=batch, gradient_accumulation_steps=steps
    )
    assert not errors(followed)


def test_rows_that_are_there_are_measured(small_data):
    spec = load_spec(small_data)
    from tools.plan.rows import from_file

    rows = from_file(small_data / "train.parquet", spec, 8, str(BASE))
    assert rows.measured and rows.count == 48
    assert (rows.images, rows.patches, rows.image_tokens) == (1.5, 64, 24)
    from data.rows import for_training, load_rows

    train = load_rows(small_data / "train.parquet", spec)
    messages = for_training(train, spec, completions=True)
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(BASE)
    lengths = []
    for row in messages:
        text = processor.apply_chat_template([*row["prompt"], *row["completion"]])
        lengths.append(len(processor(text=[text], images=[row["images"]])["input_ids"][0]))
    assert rows.tokens == pytest.approx(sum(lengths) / len(lengths), rel=0.03)
    assert from_file(small_data / "train.parquet", spec, 8, "nowhere").tokens == pytest.approx(rows.tokens, rel=0.5)


def test_rows_that_are_not_there_are_at_the_pixel_limit():
    from tools.plan.rows import from_spec

    rows = from_spec(SPEC, 1000, 300, 16)
    assert (rows.count, rows.patches, rows.image_tokens, rows.answer) == (1000, 1024, 384, 300)
    assert 512 < rows.longest_prompt < 1024 and not rows.measured


def test_a_missing_column_or_an_empty_file_is_named(tmp_path, small_data):
    from datasets import Dataset

    from data.rows import features
    from tools.plan.rows import check_columns

    file = tmp_path / "train.parquet"
    rows = Dataset.from_parquet(str(small_data / "train.parquet"), features=features())
    rows.remove_columns(["reference", "images"]).to_parquet(str(file))
    with pytest.raises(UserError, match=r"train\.parquet: no column images, reference; it has .*instruction"):
        check_columns(file)
    file.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not a Parquet file"):
        check_columns(file)


def test_unknown_cards_engines_and_options_are_named():
    from tools.plan.hardware import find_card, load_engine
    from tools.plan.stage import parse_overrides

    with pytest.raises(UserError, match=r"'h100' is not one of .*h100-80gb"):
        find_card("h100")
    with pytest.raises(UserError, match=r"'zero4'.*known: .*zero3"):
        load_engine("zero4")
    with pytest.raises(UserError, match="--learning_rat is no option"):
        parse_overrides(["--learning_rat", "1"])
    with pytest.raises(UserError, match="--seed has no value"):
        parse_overrides(["--seed"])
    assert parse_overrides(["--learning_rate", "1e-5", "--max_steps", "3"]) == {"learning_rate": "1e-5", "max_steps": 3}


def test_the_command_prints_the_resolved_recipe_and_ends_with_status_1_on_an_error(monkeypatch, capsys, tmp_path):
    from tools.plan.__main__ import main

    recipe = tmp_path / "recipes" / "own"
    shutil.copytree(ROOT / "recipes/spatialreward-8b", recipe)
    (recipe / "grpo-paper.yaml").unlink()
    arguments = [str(recipe), "--gpus", "8", "--gpu", "h100-80gb", "--engine", "zero2", "--learning_rate", "2e-5"]
    monkeypatch.setattr(sys, "argv", ["plan", *arguments])
    main()
    text = capsys.readouterr().out
    assert text.count("learning_rate: 2.0e-05") == 2 and "parameters: 8,854,417,648 in all, 87,293,952 trained" in text
    assert "engine zero2" in text and "total without checkpointing" in text and "vLLM" in text
    monkeypatch.setattr(sys, "argv", ["plan", *arguments, "--num_generations", "7"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1 and "error: " in capsys.readouterr().out
    (recipe / "sft.yaml").write_text(yaml.safe_dump({"extends": "none.yaml"}))
    with pytest.raises(SystemExit, match=r"error: .*sft\.yaml: extends: .*none\.yaml is not there"):
        main()
