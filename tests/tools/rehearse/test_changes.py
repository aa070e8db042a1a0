"""What a rehearsal changes of a recipe is what it prints: everything else in the copy is the recipe's own."""

import pytest

from pipeline.recipe import read_yaml
from spatial_edit_reward.errors import UserError
from tests.conftest import ROOT
from tools.rehearse.changes import ON_CPU, engine_of, find_config, make_changes, stage_files, write_copy
from tools.rehearse.stages import make_stages

RECIPES = ROOT / "recipes"


@pytest.mark.parametrize("name", ["spatialreward-8b", "spatialreward-8b-qlora"])
def test_the_copy_is_the_recipe_with_its_changes(name, tmp_path):
    recipe, url = RECIPES / name, "http://127.0.0.1:1/v1"
    changes = make_changes(recipe, "shrunk", url)
    write_copy(recipe, tmp_path, changes)
    write_copy(recipe, tmp_path, changes)  # a second run finds it there
    for stage in [*stage_files(recipe), "plan"]:
        own, copied = (read_yaml(folder / f"{stage}.yaml") for folder in (recipe, tmp_path / "recipes" / name))
        assert copied == {**own, **changes.get(stage, {})}
    assert (tmp_path / "recipes" / "accelerate" / "ddp.yaml").is_file()
    assert changes["data"] == {} and {"lora_r", "learning_rate", "num_generations"}.isdisjoint(changes["grpo"])


def test_the_judge_is_the_local_one_and_keeps_its_other_keywords():
    [entry] = make_changes(RECIPES / "spatialreward-8b", "shrunk", "http://here/v1")["grpo-paper"]["reward_funcs"]
    assert entry["judge"]["base_url"] == "http://here/v1" and entry["judge"]["model"].startswith("Qwen/")


def test_batches_stay_with_all_of_the_model():
    changes = make_changes(RECIPES / "spatialreward-8b", "random-full", "http://here/v1")
    assert ON_CPU.keys().isdisjoint(changes["sft"]) and ON_CPU.keys().isdisjoint(changes["grpo"])


def test_engines_are_those_of_the_plan():
    assert engine_of(RECIPES / "spatialreward-8b", "sft", "shrunk") == ("ddp", 2)
    assert engine_of(RECIPES / "spatialreward-8b", "grpo-paper", "shrunk") == ("zero3", 2)
    assert engine_of(RECIPES / "spatialreward-8b-qlora", "grpo", "shrunk") == ("single", 1)


def test_a_folder_that_is_no_recipe_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no data\.yaml: it is no recipe that can be rehearsed"):
        stage_files(tmp_path)


def test_a_recipe_whose_model_has_no_configuration_is_one_line():
    with pytest.raises(UserError, match=r"no config\.json there"):
        find_config(RECIPES / "tiny")


def test_all_of_the_model_is_timed_too():
    names = [stage.name for stage in make_stages(RECIPES / "spatialreward-8b", "random-full", rows=120, side=512)]
    assert names.index("sft timing") < names.index("grpo timing") < names.index("merge")
    assert "sft timing" not in [s.name for s in make_stages(RECIPES / "spatialreward-8b", "shrunk", rows=120, side=512)]
