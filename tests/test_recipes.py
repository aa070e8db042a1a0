"""Every YAML in recipes/: it loads, resolves, and names only what the installed libraries have."""

import pytest

from data.recipe import DataRecipe
from evaluation.recipe import EvalRecipe
from grpo.mine import MineConfig
from pipeline.recipe import load_config, parse_stage, read_yaml, resolve_options
from pipeline.rewards import read_rewards
from pipeline.values import fields_of
from tests.conftest import ROOT
from tools.plan.hardware import PlanRecipe, find_card, load_engine

PLAIN = {"data": DataRecipe, "eval": EvalRecipe, "mine": MineConfig, "plan": PlanRecipe}
RECIPES = sorted(file for file in ROOT.glob("recipes/*/*.yaml") if file.parent.name != "accelerate")
ENGINES = sorted(ROOT.glob("recipes/accelerate/*.yaml"))
FAMILY = ("spatialreward-8b", "spatialreward-8b-qlora", "spatialreward-4b", "spatialreward-2b")
# What needs a GPU, or a package that not every checkout has; the recipe's own values are checked before.
HERE = {"use_cpu": True, "bf16": False, "use_vllm": False, "load_in_4bit": False, "optim": "adamw_torch"}


def named(file):
    return f"{file.parent.name}/{file.name}"


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("file", RECIPES, ids=named)
def test_every_recipe_is_sound(file):
    kind = file.stem.split("-")[0]
    if kind in PLAIN:
        load_config(file, PLAIN[kind])
        return
    from tools.plan.stage import TYPES

    options = resolve_options(file, TYPES[kind])
    assert {"model_name_or_path", "data_dir", "output_dir"} <= set(options)
    here = {name: value for name, value in HERE.items() if name in fields_of(TYPES[kind])}
    if kind == "grpo":
        here["per_device_train_batch_size"] = options["num_generations"]  # one process holds a whole group
    flags = [part for name, value in here.items() for part in (f"--{name}", str(value).lower())]
    parsed, _ = parse_stage(TYPES[kind], ["--config", str(file), *flags])
    for name, value in options.items():
        if name not in here and name not in ("lora_target_modules", "report_to"):
            option = next(getattr(part, name) for part in parsed if hasattr(part, name))
            assert getattr(option, "value", option) == value, name


@pytest.mark.parametrize("file", ENGINES, ids=named)
def test_the_plan_reads_every_engine(file):
    """What accelerate and DeepSpeed read of them: tests/accelerate/test_configurations.py."""
    assert load_engine(file.stem).distributed == (file.stem != "single")


@pytest.mark.parametrize("name", FAMILY)
def test_a_recipe_reads_and_writes_only_its_own_run(name):
    folder, run = ROOT / "recipes" / name, f"runs/{name}"
    sft, grpo = (read_yaml(folder / f"{stage}.yaml") for stage in ("sft", "grpo"))
    assert (sft["data_dir"], sft["output_dir"]) == (f"{run}/data", f"{run}/sft")
    assert (grpo["model_name_or_path"], grpo["output_dir"]) == (f"{run}/sft/merged", f"{run}/grpo")
    assert grpo["data_dir"] in (f"{run}/mine", f"{run}/data")
    assert read_yaml(folder / "data.yaml")["output_dir"] == f"{run}/data"
    evaluated = read_yaml(folder / "eval.yaml")
    assert (evaluated["run_dir"], evaluated["base"]) == (run, sft["model_name_or_path"])
    assert read_yaml(folder / "mine.yaml")["run_dir"] == run
    assert len(read_rewards(ROOT / evaluated["rewards_from"]).rewards) == 3
    assert find_card(read_yaml(folder / "plan.yaml")["gpu"]).memory > 0


@pytest.mark.parametrize("name", ["spatialreward-4b", "spatialreward-2b"])
def test_smaller_models_differ_in_names_alone(name):
    for stage in ("sft", "grpo"):
        own, of_8b = (read_yaml(ROOT / "recipes" / folder / f"{stage}.yaml") for folder in (name, "spatialreward-8b"))
        changed = {key for key in own if own[key] != of_8b.get(key)}
        assert changed <= {"model_name_or_path", "data_dir", "output_dir"}


def test_the_published_settings_of_stage_1():
    recipe = read_yaml(ROOT / "recipes/spatialreward-8b/sft.yaml")
    published = {"lora_r": 32, "lora_alpha": 64, "lora_dropout": 0.05, "learning_rate": 1e-4, "num_train_epochs": 10}
    assert {name: recipe[name] for name in published} == published
    assert (recipe["lr_scheduler_type"], recipe["warmup_steps"], recipe["bf16"]) == ("cosine", 0.1, True)
    assert 8 * recipe["per_device_train_batch_size"] * recipe["gradient_accumulation_steps"] == 8 * 2 * 16


def test_the_published_settings_of_stage_2():
    recipe = read_yaml(ROOT / "recipes/spatialreward-8b/grpo-paper.yaml")
    published = {"use_peft": False, "learning_rate": 5e-7, "beta": 0.02, "num_generations": 4, "warmup_steps": 0.03}
    sampling = {"temperature": 0.9, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.05}
    assert {name: recipe[name] for name in {**published, **sampling}} == {**published, **sampling}
    assert [*recipe["reward_funcs"][0]] == ["judge"]
    completions = 32 * recipe["per_device_train_batch_size"] * recipe["gradient_accumulation_steps"]
    assert completions // recipe["num_generations"] == 16
