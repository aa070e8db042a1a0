"""Recipes: what is merged, and how a wrong key or value is said before anything runs."""

import sys
from dataclasses import dataclass, field
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import pytest
import yaml
from trl import GRPOConfig, GRPOTrainer, ModelConfig, SFTConfig

from data.recipe import DataRecipe
from evaluation.recipe import EvalRecipe
from grpo.__main__ import RewardArguments
from pipeline.recipe import load_config, parse_stage, read_yaml, resolve_options
from pipeline.values import ALLOWED, check_values, fields_of
from sft.__main__ import DataArguments
from spatial_edit_reward.errors import UserError

ROOT = Path(__file__).parents[2]
STAGES = {"sft": (SFTConfig, DataArguments, ModelConfig), "grpo": (GRPOConfig, RewardArguments, ModelConfig)}


def write(file, content):
    file.write_text(yaml.safe_dump(content))
    return file


def test_extends_merges_mappings_and_replaces_lists(tmp_path):
    write(tmp_path / "below.yaml", {"a": {"x": 1, "y": 2}, "list": [1, 2], "kept": True})
    (tmp_path / "sub").mkdir()
    above = write(tmp_path / "sub" / "above.yaml", {"extends": "../below.yaml", "a": {"y": 3}, "list": [9]})
    assert read_yaml(above) == {"a": {"x": 1, "y": 3}, "list": [9], "kept": True}


def test_extends_goes_through_every_layer_and_names_a_circle_or_a_missing_file(tmp_path):
    write(tmp_path / "c.yaml", {"x": 1, "y": 1, "z": 1})
    write(tmp_path / "b.yaml", {"extends": "c.yaml", "y": 2, "z": 2})
    file = write(tmp_path / "a.yaml", {"extends": "b.yaml", "z": 3})
    assert read_yaml(file) == {"x": 1, "y": 2, "z": 3}
    write(tmp_path / "c.yaml", {"extends": "a.yaml"})
    for parent, said in (("b.yaml", "a circle"), ("gone.yaml", "gone.yaml is not there"), (["b.yaml"], "not one path")):
        write(file, {"extends": parent})
        with pytest.raises(UserError, match=said) as error:
            read_yaml(file)
        assert str(tmp_path) in str(error.value)


def test_the_error_names_the_file_of_the_chain_that_sets_the_value(tmp_path):
    write(tmp_path / "below.yaml", {"learning_rate": "fast"})
    above = write(tmp_path / "above.yaml", {"extends": "below.yaml", "learning_rate": 1.0})
    with pytest.raises(UserError, match=r"below\.yaml: learning_rate: 'fast'"):
        resolve_options(above, STAGES["sft"])
    write(tmp_path / "eval.yaml", {"extends": "base.yaml", "run_dir": "x"})
    write(tmp_path / "base.yaml", {"base": "y", "rewards_from": "z", "batch_size": 0})
    with pytest.raises(UserError, match=r"base\.yaml: batch_size"):
        load_config(tmp_path / "eval.yaml", EvalRecipe)


class Speed(Enum):
    SLOW = "slow"
    FAST = "fast"


@dataclass
class Options:
    rate: float = 0.1
    steps: int = 1
    flag: bool = False
    kind: Literal["a", "b"] = "a"
    speed: Speed | str = "slow"
    size: str = field(default="s", metadata={"choices": ["s", "m"]})
    names: list[str] = field(default_factory=list)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"rat": 1}, "unknown key 'rat'; did you mean rate"),
        ({"rate": "fast"}, "rate: 'fast'"),
        ({"kind": "c"}, "kind: 'c'"),
        ({"names": 3}, "names: 3"),
        ({"flag": "perhaps"}, "flag: 'perhaps'"),
        ({"steps": 1.5}, "steps: 1.5"),
        ({"speed": "fsat"}, "speed: 'fsat' is not one of slow, fast; did you mean fast?"),
        ({"size": "l"}, "size: 'l' is not one of s, m"),
    ],
)
def test_wrong_keys_and_values_name_the_file(tmp_path, content, said):
    file = write(tmp_path / "recipe.yaml", content)
    with pytest.raises(UserError) as error:
        check_values(file, read_yaml(file), [Options])
    assert str(file) in str(error.value) and said in str(error.value)


def test_values_become_what_their_field_is():
    given = {"rate": "1e-5", "steps": "3", "flag": "no", "speed": "fast"}
    assert check_values(Path("x"), given, [Options]) == {"rate": 1e-5, "steps": 3, "flag": False, "speed": "fast"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type: 'cosin' is not one of .* did you mean cosine"),
        ({"optim": "adamw"}, "optim: 'adamw' is not one of"),
        ({"report_to": ["tensorbord"]}, "report_to: 'tensorbord' .* did you mean tensorboard"),
        ({"save_strategy": "step"}, "did you mean steps"),
        ({"vllm_mode": "collocate"}, "did you mean colocate"),
        ({"vllm_importance_sampling_mode": "token"}, "token_truncate"),
        ({"dtype": "bf16"}, "dtype: 'bf16' is not one of auto, bfloat16"),
        ({"gradient_checkpointing": "sometimes"}, "gradient_checkpointing: 'sometimes'"),
    ],
)
def test_misspelt_choices_of_the_installed_libraries_are_named(options, said):
    with pytest.raises(UserError, match=rf"grpo\.yaml: .*{said}"):
        check_values(Path("grpo.yaml"), options, STAGES["grpo"])


def test_the_listed_choices_are_those_of_the_installed_trainer():
    source = Path(sys.modules[GRPOTrainer.__module__].__file__).read_text()
    source += Path(sys.modules[GRPOConfig.__module__].__file__).read_text()
    fields = fields_of(STAGES["grpo"])
    for name, values in ALLOWED.items():
        assert name in fields
        for value in values:
            assert value in (True, False) or f'"{value}"' in source or f"'{value}'" in source or f"`{value}`" in source


def test_overrides_are_checked_like_the_file(tmp_path):
    file = write(tmp_path / "grpo.yaml", {"data_dir": "x", "reward_funcs": ["format"], "use_cpu": True, "bf16": False})
    arguments = ["--config", str(file), "--output_dir", str(tmp_path)]
    for override, said in (
        (["--loss_type", "dapoo"], "--loss_type: 'dapoo' .* did you mean dapo"),
        (["--optim", "adam"], "optim"),
        (["--seed", "x"], "seed.*'x'"),
    ):
        with pytest.raises(UserError, match=said):
            parse_stage(STAGES["grpo"], arguments + override)


def test_a_missing_option_or_package_is_one_line(tmp_path):
    file = write(tmp_path / "grpo.yaml", {"reward_funcs": ["format"], "use_cpu": True, "bf16": False})
    with pytest.raises(UserError, match=r"grpo\.yaml: .*data_dir"):
        parse_stage(STAGES["grpo"], ["--config", str(file)])
    if find_spec("vllm") is None:
        with pytest.raises(UserError, match=r"use_vllm needs vllm, .*\[vllm\]"):
            parse_stage(STAGES["grpo"], ["--config", str(file), "--data_dir", "x", "--use_vllm", "true"])


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
    for change, message in (
        ({"image_sise": 3}, "unknown key 'image_sise'; did you mean image_size"),
        ({"image_size": 3}, "image_size: "),
    ):
        file = write(tmp_path / "data.yaml", {**content, **change})
        with pytest.raises(UserError) as error:
            load_config(file, DataRecipe)
        assert message in str(error.value) and "data.yaml" in str(error.value)
