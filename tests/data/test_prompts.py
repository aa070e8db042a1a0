"""A recipe may ask in words of its own; they go into `verdict.json`, where training and evaluation read them."""

import json

import pytest

from spatial_edit_reward import load_spec
from tests.data.conftest import data_recipe, prepared

GROUPS = {"train": 1, "validation": 1, "rl": 1, "heldout": 1}


def test_own_words_are_asked_and_the_other_task_keeps_its_prompt(tmp_path):
    done, _ = prepared(
        data_recipe(tmp_path, [], synthetic_groups=GROUPS, prompts={"sc": "Done, $low to $high? $instruction"})
    )
    assert done.returncode == 0, done.stderr
    spec = load_spec(tmp_path / "data")
    assert spec.prompt("sc", "Remove the $5 cup.") == "Done, 0 to 25? Remove the $5 cup."
    assert spec.prompts["pq"] == type(spec).model_fields["prompts"].default["pq"]
    assert json.loads((tmp_path / "data" / "verdict.json").read_text())["prompts"] == spec.prompts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": {"sc": "No place for it."}}, "prompts.sc"),
        ({"prompts": {"sc": "$5 for $instruction"}}, "prompts.sc"),
        ({"prompts": {"both": "$instruction"}}, "prompts.both"),
        ({"prompts": {"sc": "$instruction"}, "prompt_from": "drawn"}, "prompts or prompt_from"),
    ],
)
def test_words_that_cannot_ask_are_refused_by_key(tmp_path, changes, message):
    done, _ = prepared(data_recipe(tmp_path, [], synthetic_groups=GROUPS, **changes))
    assert done.returncode != 0 and message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "data").exists()
