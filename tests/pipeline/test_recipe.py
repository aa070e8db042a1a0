"""Recipes: what is merged, and how a wrong key or value is said before anything runs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml
from trl import GRPOConfig, ModelConfig, SFTConfig

from data.recipe import DataRecipe
from evaluation.recipe import EvalRecipe, MineRecipe
from grpo.__main__ import RewardArguments
from pipeline.errors import UserError
from pipeline.recipe import check_values, load_model, parse_stage, read_yaml
from sft.__main__ import DataArguments

ROOT = Path(__file__).parents[2]
STAGES = {"sft": (SFTConfig, DataArguments, ModelConfig), "grpo": (GRPOConfig, RewardArguments, ModelConfig)}


@pytest.mark.parametrize(
    "file",
    sorted({*ROOT.glob("recipes/*/*.yaml")} - {*ROOT.glob("recipes/engines/*")}),
    ids=lambda f: f"{f.parent.name}/{f.name}",
)
def test_every_recipe_in_the_tree_is_sound(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    if file.stem in STAGES:
        check_values(file, read_yaml(file), STAGES[file.stem])
        parse_stage(STAGES[file.stem], ["--config", str(file)])
    else:
        load_model(file, {"data": DataRecipe, "eval": EvalRecipe, "mine": MineRecipe}[file.stem])


def write(file, content):
    file.write_text(yaml.safe_dump(content))
    return file


def test_extends_merges_mappings_and_replaces_lists(tmp_path):
    write(tmp_path / "below.yaml", {"a": {"x": 1, "y": 2}, "list": [1, 2], "kept": True})
    (tmp_path / "sub").mkdir()
    above = write(tmp_path / "sub" / "above.yaml", {"extends": "../below.yaml", "a": {"y": 3}, "list": [9]})
    assert read_yaml(above) == {"a": {"x": 1, "y": 3}, "list": [9], "kept": True}


@dataclass
class Options:
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"
    names: list[str] = field(default_factory=list)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"rat": 1}, "unknown key 'rat'; did you mean rate"),
        ({"rate": "fast"}, "rate: 'fast'"),
        ({"kind": "c"}, "kind: 'c'"),
        ({"names": 3}, "names: 3"),
    ],
)
def test_wrong_keys_and_values_name_the_file(tmp_path, content, said):
    file = write(tmp_path / "recipe.yaml", content)
    with pytest.raises(UserError) as error:
        check_values(file, read_yaml(file), [Options])
    assert str(file) in str(error.value) and said in str(error.value)


def test_values_that_trl_would_only_miss_in_the_middle_of_a_run(tmp_path):
    for key in ("loss_type", "multi_objective_aggregation", "scale_rewards"):
        file = write(tmp_path / "grpo.yaml", {key: "nonsense"})
        with pytest.raises(UserError, match=f"{key}: 'nonsense' is not one of"):
            check_values(file, read_yaml(file), STAGES["grpo"])


@pytest.mark.parametrize("text", ["- a list", "key: [unclosed", ""])
def test_files_that_are_no_mapping_are_named(tmp_path, text):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        read_yaml(file)
    with pytest.raises(UserError, match="no such recipe"):
        read_yaml(tmp_path / "missing.yaml")


def test_only_what_changes_the_result_is_in_the_fingerprint(tmp_path):
    file = write(tmp_path / "sft.yaml", {"data_dir": "x", "learning_rate": "1e-3", "use_cpu": True, "bf16": False})
    arguments = ["--config", str(file), "--output_dir", str(tmp_path), "--seed", "7", "--report_to", "none"]
    (args, *_), resolved = parse_stage(STAGES["sft"], arguments)
    assert args.learning_rate == 1e-3 and args.seed == 7
    assert set(resolved) == {"data_dir", "learning_rate", "use_cpu", "bf16", "seed"}


def test_pydantic_recipes_name_the_key(tmp_path):
    content = yaml.safe_load((ROOT / "recipes/tiny/data.yaml").read_text())
    for change, said in (({"sidee": 3}, "unknown key 'sidee'; did you mean side"), ({"side": 3}, "side: ")):
        file = write(tmp_path / "data.yaml", {**content, **change})
        with pytest.raises(UserError) as error:
            load_model(file, DataRecipe)
        assert said in str(error.value) and "data.yaml" in str(error.value)
