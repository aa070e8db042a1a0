"""Recipes: what is merged, and how a wrong key or value is refused before anything runs."""

import dataclasses
import sys
from dataclasses import dataclass, field
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import yaml

from data.recipe import DataRecipe
from evaluation.recipe import EvalRecipe
from grpo.__main__ import RewardArguments
from pipeline.recipe import load_config, parse_stage, read_options, read_yaml, require_model, resolve_options
from pipeline.values import ALLOWED, check_values, field_names, fields_of
from sft.__main__ import DataArguments
from spatial_edit_reward.errors import UserError
from tests.conftest import ROOT, quiet


@pytest.fixture(scope="module")
def types():
    """Stage -> the dataclasses of its options."""
    from trl import GRPOConfig, ModelConfig, SFTConfig

    return {"sft": (SFTConfig, DataArguments, ModelConfig), "grpo": (GRPOConfig, RewardArguments, ModelConfig)}


def write(file, content):
    file.write_text(yaml.safe_dump(content))
    return file


def test_extends_merges_mappings_and_replaces_lists(tmp_path):
    write(tmp_path / "below.yaml", {"a": {"x": 1, "y": 2}, "list": [1, 2], "kept": True})
    (tmp_path / "sub").mkdir()
    above = write(tmp_path / "sub" / "above.yaml", {"extends": "../below.yaml", "a": {"y": 3}, "list": [9]})
    assert read_yaml(above) == {"a": {"x": 1, "y": 3}, "list": [9], "kept": True}


def test_a_circle_by_a_symlink_is_one(tmp_path):
    (tmp_path / "link.yaml").symlink_to("a.yaml")
    (tmp_path / "loop").symlink_to(".", target_is_directory=True)
    for parent in ("link.yaml", "loop/a.yaml"):
        write(tmp_path / "a.yaml", {"extends": parent})
        with pytest.raises(UserError, match=rf"/a\.yaml: extends: .*/{parent}, which extends this file: a circle"):
            read_yaml(tmp_path / "a.yaml")


def test_extends_goes_through_every_layer_and_names_a_circle_or_a_missing_file(tmp_path):
    write(tmp_path / "c.yaml", {"x": 1, "y": 1, "z": 1})
    write(tmp_path / "b.yaml", {"extends": "c.yaml", "y": 2, "z": 2})
    file = write(tmp_path / "a.yaml", {"extends": "b.yaml", "z": 3})
    assert read_yaml(file) == {"x": 1, "y": 2, "z": 3}
    write(tmp_path / "c.yaml", {"extends": "a.yaml"})
    for parent, message in (
        ("b.yaml", "a circle"),
        ("gone.yaml", "gone.yaml is not there"),
        (["b.yaml"], "not one path"),
    ):
        write(file, {"extends": parent})
        with pytest.raises(UserError, match=message) as error:
            read_yaml(file)
        assert str(tmp_path) in str(error.value)


def test_the_error_names_the_file_of_the_chain_that_sets_the_value(tmp_path, types):
    write(tmp_path / "below.yaml", {"learning_rate": "fast"})
    above = write(tmp_path / "above.yaml", {"extends": "below.yaml", "learning_rate": 1.0})
    with pytest.raises(UserError, match=r"below\.yaml: learning_rate: 'fast'"):
        resolve_options(above, types["sft"])
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
    ("content", "message"),
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
def test_wrong_keys_and_values_name_the_file(tmp_path, content, message):
    file = write(tmp_path / "recipe.yaml", content)
    with pytest.raises(UserError) as error:
        check_values(file, read_yaml(file), [Options])
    assert str(file) in str(error.value) and message in str(error.value)


def test_values_become_what_their_field_is():
    given = {"rate": "1e-5", "steps": "3", "flag": "no", "speed": "fast"}
    assert check_values(Path("x"), given, [Options]) == {"rate": 1e-5, "steps": 3, "flag": False, "speed": "fast"}


@pytest.mark.parametrize(
    ("options", "message"),
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
def test_misspelt_choices_of_the_installed_libraries_are_named(options, message, types):
    with pytest.raises(UserError, match=rf"grpo\.yaml: .*{message}"):
        check_values(Path("grpo.yaml"), options, types["grpo"])


def test_the_listed_choices_are_those_of_the_installed_trainer(types):
    from trl import GRPOConfig, GRPOTrainer

    source = Path(sys.modules[GRPOTrainer.__module__].__file__).read_text()
    source += Path(sys.modules[GRPOConfig.__module__].__file__).read_text()
    fields = fields_of(types["grpo"])
    for name, values in ALLOWED.items():
        assert name in fields
        for value in values:
            assert value in (True, False) or f'"{value}"' in source or f"'{value}'" in source or f"`{value}`" in source


def test_overrides_are_checked_like_the_file(tmp_path, types):
    file = write(tmp_path / "grpo.yaml", {"data_dir": "x", "reward_funcs": ["format"], "use_cpu": True, "bf16": False})
    arguments = ["--config", str(file), "--output_dir", str(tmp_path)]
    for override, message in (
        (["--loss_type", "dapoo"], "--loss_type: 'dapoo' .* did you mean dapo"),
        (["--optim", "adam"], "optim"),
        (["--seed", "x"], "seed.*'x'"),
        (
            ["--reward_weights", "1.0", "2.0", "--loss_type", "x"],
            "--loss_type: 'x'",
        ),  # a list without listed values passes
    ):
        with pytest.raises(UserError, match=message):
            parse_stage(types["grpo"], arguments + override)


def test_a_missing_option_or_package_is_one_line(tmp_path, types):
    file = write(tmp_path / "grpo.yaml", {"reward_funcs": ["format"], "use_cpu": True, "bf16": False})
    with pytest.raises(UserError, match=r"grpo\.yaml: .*data_dir"):
        parse_stage(types["grpo"], ["--config", str(file)])
    if find_spec("vllm") is None:
        with pytest.raises(UserError, match=r"use_vllm needs vllm, .*\[vllm\]"):
            parse_stage(types["grpo"], ["--config", str(file), "--data_dir", "x", "--use_vllm", "true"])


def test_weights_that_nothing_names_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"grpo\.yaml: model_name_or_path is missing"):
        require_model(SimpleNamespace(model_name_or_path=None), tmp_path / "grpo.yaml")


def test_values_that_trl_would_only_miss_in_the_middle_of_a_run(tmp_path, types):
    for key in ("loss_type", "multi_objective_aggregation", "scale_rewards"):
        file = write(tmp_path / "grpo.yaml", {key: "nonsense"})
        with pytest.raises(UserError, match=f"{key}: 'nonsense' is not one of"):
            check_values(file, read_yaml(file), types["grpo"])


@pytest.mark.parametrize("text", ["- a list", "key: [unclosed", ""])
def test_files_that_are_no_mapping_are_named(tmp_path, text):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        read_yaml(file)
    with pytest.raises(UserError, match="no such recipe"):
        read_yaml(tmp_path / "missing.yaml")


def test_only_what_changes_the_result_is_in_the_fingerprint(tmp_path, types):
    file = write(tmp_path / "sft.yaml", {"data_dir": "x", "learning_rate": "1e-3", "use_cpu": True, "bf16": False})
    arguments = ["--config", str(file), "--output_dir", str(tmp_path), "--seed", "7", "--report_to", "none"]
    (args, *_), resolved = parse_stage(types["sft"], arguments)
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


def test_paths_follow_from_the_name_of_the_recipes_folder(tmp_path):
    for name in ("one", "two"):
        (tmp_path / "recipes" / name).mkdir(parents=True)
    one, two = tmp_path / "recipes" / "one", tmp_path / "recipes" / "two"
    for stage, expected in {
        "data": {"output_dir": "runs/two/data"},
        "sft": {"data_dir": "runs/two/data", "output_dir": "runs/two/sft"},
        "mine": {"run_dir": "runs/two", "rewards_from": "recipes/two/grpo.yaml"},
        "grpo": {
            "model_name_or_path": "runs/two/sft/merged",
            "data_dir": "runs/two/mine",
            "output_dir": "runs/two/grpo",
        },
        "eval": {"run_dir": "runs/two", "rewards_from": "recipes/two/grpo.yaml"},
        "plan": {},
    }.items():
        write(one / f"{stage}.yaml", {"seed": 1})
        child = write(two / f"{stage}.yaml", {"extends": f"../one/{stage}.yaml"})
        assert read_yaml(child) == {"seed": 1, **expected}
        write(two / f"{stage}.yaml", {"extends": f"../one/{stage}.yaml", "output_dir": "elsewhere"})
        assert read_yaml(child) == {"seed": 1, **expected, "output_dir": "elsewhere"}
    assert read_yaml(write(two / "grpo-paper.yaml", {}))["output_dir"] == "runs/two/grpo-paper"
    assert read_yaml(write(tmp_path / "sft.yaml", {"seed": 1})) == {"seed": 1}  # a file anywhere else says its own


def test_names_read_off_the_sources_are_those_of_the_installed_dataclasses(types):
    """An upgrade of TRL or transformers that `field_names` cannot follow shows here."""
    for kind in (types["sft"][0], types["grpo"][0], types["grpo"][2]):
        assert field_names("trl", kind.__name__) == {one.name for one in dataclasses.fields(kind)}


def stage_options(stage, file, *arguments):
    names, own = {
        "sft": (("SFTConfig", "ModelConfig"), DataArguments),
        "grpo": (("GRPOConfig", "ModelConfig"), RewardArguments),
    }[stage]
    return read_options(names, own, ["--config", str(file), *arguments])


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_names_of_options_are_checked_without_trl(tmp_path, stage):
    file = write(tmp_path / f"{stage}.yaml", {"learning_rate": 1, "lora_r": 2, "data_dir": "x"})
    options = stage_options(stage, file, "--data_dir", "y", "--seed=3", "--use-peft", "--no_bf16")
    assert options["data_dir"] == "y" and options["seed"] == "3" and options["use_peft"] == "true"
    for wrong, message in (
        ({"lerning_rate": 1}, "'lerning_rate'; did you mean learning_rate"),
        ({"reward_func": []}, "'reward_func'"),
    ):
        write(tmp_path / "below.yaml", wrong)
        file = write(tmp_path / f"{stage}.yaml", {"extends": "below.yaml"})
        with pytest.raises(UserError, match=rf"below\.yaml: unknown key {message}"):
            stage_options(stage, file)
    file = write(tmp_path / f"{stage}.yaml", {})
    for wrong, name in (("lerning_rate", "learning_rate"), ("random", "random_weights")):  # no beginnings of names
        with pytest.raises(UserError, match=rf"command line: unknown key '--{wrong}'; did you mean .*--{name}\b"):
            stage_options(stage, file, f"--{wrong}", "1")
    with pytest.raises(UserError, match="unknown key '--per_device_train_b'; did you mean --per_device_train_batch_s"):
        stage_options(stage, file, "--per_device_train_b=4")
    with pytest.raises(UserError, match="give the stage its recipe"):
        read_options((), DataArguments, [])


def test_a_misspelt_key_is_refused_in_two_seconds_without_torch_or_trl(tmp_path):
    import resource
    import subprocess

    file = write(tmp_path / "sft.yaml", {"lerning_rate": 1})
    code = """
import sys
sys.argv = ["sft", "--config", sys.argv[1]]
from sft.__main__ import main
try:
    main()
finally:
    print(sorted({"torch", "transformers", "trl", "datasets"} & set(sys.modules)))
"""

    def seconds():  # of the processor: the clock runs on while other tests have it
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = seconds()
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], cwd=ROOT, capture_output=True, text=True, env=quiet()
    )
    assert seconds() - before < 2
    assert done.returncode == 1 and done.stdout == "[]\n" and "did you mean learning_rate" in done.stderr
