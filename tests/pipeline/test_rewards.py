"""Rewards outside training: what the columns suffice for is counted, what they do not is named."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.rewards import read_rewards, require_applicable, require_rewards
from rewards_fn.load import apply_rewards, load_rewards, reward_names, select_rewards
from spatial_edit_reward import Spec, UserError, render
from tests.conftest import write_recipe

SPEC = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=320)
OWN = f"{__name__}:brevity"
ROW = {
    "id": "a-pq",
    "task": "pq",
    "group": "a",
    "instruction": "Remove the cup.",
    "reference": {"edit_region": None, "score": [20.0, 10.0], "reasoning": "No visible artifacts."},
}


def brevity(completions, limit=100, **kwargs):
    """A reward of one's own, written for stage 2: a completion is a list of messages."""
    return [1.0 if len(completion[0]["content"]) < limit else 0.0 for completion in completions]


def names_the_object(completions, instruction, **kwargs):
    return [float("cup" in text) for text in instruction]


def brightness(completions, images, **kwargs):
    return [image[-1] / 10 for image in images]


def sometimes(completions, **kwargs):
    return [None, float("nan"), 1][: len(completions)]


async def remote(completions, **kwargs):
    return [1.0] * len(completions)


def test_a_reward_of_ones_own_is_counted_with_its_weight(tmp_path, capsys):
    recipe = write_recipe(tmp_path / "grpo.yaml", "grpo", reward_funcs=["format", OWN], reward_weights=[1, 3])
    selected = read_rewards(recipe)
    assert reward_names(selected.rewards) == ["format", "brevity"] and selected.weights == [1, 3]
    assert (selected.entries, selected.left_out) == (["format", OWN], {})
    assert capsys.readouterr().err == ""


def test_it_counts_in_the_metrics_and_in_mining(tmp_path):
    from evaluation.metrics import group_sums, score_rows
    from grpo.mine import sample_rewards

    funcs = ["format", {OWN: {"limit": 10}}, f"{__name__}:brightness"]
    recipe = write_recipe(tmp_path / "grpo.yaml", "grpo", reward_funcs=funcs, reward_weights=[1, 2, 1])
    selected = read_rewards(recipe)
    completion = render("pq", ROW["reference"])
    scored = score_rows([ROW], [completion], selected.rewards, selected.weights, SPEC, images=[[2]])
    assert (scored[0]["brevity"], scored[0]["brightness"], scored[0]["format"]) == (0.0, 0.2, 1.0)
    assert scored[0]["reward"] == pytest.approx(1.2 / 4)
    assert group_sums([ROW], scored, [False], SPEC)["reward"].mean == pytest.approx(1.2 / 4)
    values = sample_rewards([ROW], [[completion, "no"]], selected.rewards, selected.weights, images=[[2], [2]])
    assert np.allclose(values, [[1.2 / 4, 2.2 / 4]])


def test_what_the_columns_do_not_suffice_for_is_named(tmp_path, capsys):
    funcs = ["box_iou", "trl:get_repetition_penalty_reward", f"{__name__}:brightness", f"{__name__}:remote"]
    recipe = write_recipe(tmp_path / "grpo.yaml", "grpo", reward_funcs=funcs, reward_weights=[2, 1, 1, 1])
    selected = read_rewards(recipe, columns=("prompts", "completions", "reference", "task"))
    assert (reward_names(selected.rewards), selected.weights) == (["box_iou"], [2])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "box_iou x 2; left out: repetition_penalty_reward (needs completion_ids), brightness (needs images), "
        "remote (asks a service)"
    )


@pytest.mark.parametrize(
    ("funcs", "weights", "message"),
    [
        (["boxes"], [1], "unknown reward 'boxes'"),
        (["format"], [1, 2], "reward_weights: 2 for 1 reward_funcs"),
        ([f"{__name__}:remote"], [1], "none of its rewards can be computed outside training: remote"),
    ],
)
def test_a_recipe_without_usable_rewards_is_named(tmp_path, funcs, weights, message):
    recipe = write_recipe(tmp_path / "grpo.yaml", "grpo", reward_funcs=funcs, reward_weights=weights)
    with pytest.raises(UserError, match=rf"grpo.yaml: .*{message}"):
        require_rewards(recipe)


def test_a_recipe_with_a_service_alone_still_has_metrics(tmp_path, capsys):
    from evaluation.metrics import group_sums, score_rows

    recipe = write_recipe(tmp_path / "grpo.yaml", "grpo", reward_funcs=[f"{__name__}:remote"], reward_weights=[1])
    selected = read_rewards(recipe)
    assert (selected.rewards, selected.weights) == ([], [])
    assert capsys.readouterr().err.endswith("grpo.yaml: none; left out: remote (asks a service)\n")
    scored = score_rows([ROW], [render("pq", ROW["reference"])], selected.rewards, selected.weights, SPEC)
    assert scored[0]["reward"] is None and scored[0]["score_agreement"] == 1
    sums = group_sums([ROW], scored, [False], SPEC)
    assert sums["reward"].denominator.sum() == 0 and sums["valid"].mean == 1


def test_rewards_are_called_as_in_training():
    own, sees = load_rewards([OWN, f"{__name__}:names_the_object"])
    columns = {"instruction": ["the cup", "the lamp"]}
    assert apply_rewards([own, sees], ["short", "long" * 99], columns) == [[1.0, 0.0], [1.0, 0.0]]
    assert apply_rewards([sometimes], ["a", "b", "c"], {}) == [[None, None, 1]]
    with pytest.raises(ValueError, match="reward 'sometimes' gave 3 values for 4 completions"):
        apply_rewards([sometimes], ["a"] * 4, {})


def test_two_rewards_of_one_name_are_told_apart():
    entries = ["box_iou", {"box_iou": {"power": 0.5}}, "box_iou"]
    assert reward_names(select_rewards(entries).rewards) == ["box_iou", "box_iou_2", "box_iou_3"]


def test_a_rule_that_applies_to_too_few_rows_is_an_error_and_ones_own_reward_is_not():
    region = {"id": 0, "label": "cup", "bbox_2d": [0, 0, 9, 9]}
    boxed = ROW | {"task": "sc", "reference": ROW["reference"] | {"edit_region": [region]}}
    rewards = load_rewards([{"box_iou": {"power": 0.5}}, "format", f"{__name__}:sometimes"])
    require_applicable(rewards, [boxed] * 5 + [ROW] * 95, Path("rl.parquet"))
    with pytest.raises(UserError, match=r"rl\.parquet: box_iou applies to 4 of 100 rows, fewer than 5%.*data\.yaml"):
        require_applicable(rewards, [boxed] * 4 + [ROW] * 96, Path("rl.parquet"))
    require_applicable(rewards[1:], [ROW] * 100, Path("rl.parquet"))
