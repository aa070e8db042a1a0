"""The published `pq` prompt holds no instruction: such rows are read, grouped, trained on and asked about in its words."""

import json

import pytest
from PIL import Image

from data.rows import for_training, load_rows, row_error
from data.writers import framework_row
from evaluation.heldout import plan_heldout
from rewards_fn.judge_prompt import messages_for
from spatial_edit_reward import Spec, load_spec, parse, save_spec
from spatial_edit_reward.inference.backends import open_backend
from spatial_edit_reward.inference.request import Request
from tests.conftest import BASE
from tests.data.broken_rows import PQ, SC
from tests.data.conftest import data_recipe, noise, prepared, write_lines

SC_PROMPT = (
    'Rate the edit, JSON as {{"edit_region": [], "reasoning": "...", "score": [1, 2]}}.\nEditing instruction: {}'
)
PQ_PROMPT = 'Is it natural? A $5 question.\nJSON as {"reasoning": "...", "score": [naturalness, artifacts]}, 0 to 25.'
EDITS = 40
VERBS = ("Make", "Add", "Remove")


def public_row(images, prompt, verdict, **keys):
    turns = [
        {"role": "user", "content": "<image>" * len(images) + prompt},
        {"role": "assistant", "content": json.dumps(verdict)},
    ]
    return {"images": images, "messages": turns, **keys}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A source of the published shape: `sc` rows with the instruction in their prompt, `pq` rows without one."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "images").mkdir()
    rows = []
    for edit in range(EDITS):
        source, edited = f"images/{edit}_0.png", f"images/{edit}_1.png"
        noise(edit).save(folder / source)
        noise(1000 + edit).save(folder / edited)
        words = f"{VERBS[edit % 3]} cup {edit} {'now' if edit % 2 else 'please'}."
        rows.append(public_row([source, edited], SC_PROMPT.format(words), SC))
        rows.append(public_row([edited], PQ_PROMPT, PQ))
    splits = {"train": 6, "validation": 1, "rl": 1, "heldout": 2}
    source = {"name": "x", "layout": "spatialreward", "path": str(write_lines(folder / "rows.jsonl", rows))}
    return folder, [{**source, "splits": splits}]


@pytest.fixture(scope="module")
def stage(published):
    folder, sources = published
    done, report = prepared(data_recipe(folder, sources, prompt_from="x"))
    assert done.returncode == 0, done.stderr
    return folder / "data", report


def all_rows(folder):
    spec = load_spec(folder)
    return {file.stem: load_rows(file, spec) for file in folder.glob("*.parquet")}


def test_the_published_prompt_is_recovered_and_explains_every_row(stage):
    folder, report = stage
    assert report["sources"]["x"]["dropped"] == {} and report["sources"]["x"]["kept"] == 2 * EDITS
    assert [report["prompts"]["x"][task]["explained"] for task in ("sc", "pq")] == [EDITS, EDITS]
    spec = load_spec(folder)
    assert spec.prompt("pq", None) == PQ_PROMPT == spec.prompt("pq", "Not asked about.")
    assert spec.prompt("sc", "Add a {cup} for $5.") == SC_PROMPT.format("Add a {cup} for $5.")


def test_a_pq_row_joins_the_group_and_split_of_the_edit_with_its_image(stage):
    of_image = {}
    for split, rows in all_rows(stage[0]).items():
        for row in rows:
            of_image.setdefault(row["images"][-1].tobytes(), {})[row["task"]] = split, row["group"], row["instruction"]
    assert len(of_image) == EDITS
    for tasks in of_image.values():
        assert tasks["sc"][:2] == tasks["pq"][:2] and tasks["sc"][1] is not None
        assert tasks["sc"][2].startswith(VERBS) and tasks["pq"][2] is None


def test_what_trains_and_what_is_asked_is_the_published_prompt(stage):
    spec, splits = load_spec(stage[0]), all_rows(stage[0])
    trained = for_training(splits["train"], spec, completions=True)
    pq = [row for row in trained if row["task"] == "pq"]
    assert pq and {row["prompt"][0]["content"][-1]["text"] for row in pq} == {PQ_PROMPT}
    plan = plan_heldout(splits["heldout"], spec)
    assert {words for task, words, _ in plan.prompts.values() if task == "pq"} == {None}
    assert framework_row(pq[0] | {"group": "g"}, ["a.png"], spec, "ms-swift")["instruction"] is None


def test_this_projects_own_words_ask_without_an_instruction_too(published):
    folder, sources = published
    own = folder / "own"
    own.mkdir()
    words = [{**sources[0], "images": str(folder)}]
    done, report = prepared(data_recipe(own, words))
    assert done.returncode == 0, done.stderr
    assert report["sources"]["x"]["kept"] == 2 * EDITS
    assert load_spec(own / "data").prompt("pq", None).endswith("The editing instruction: (not given)")


def test_only_sc_needs_an_instruction(stage):
    spec = load_spec(stage[0])
    row = next(row for row in all_rows(stage[0])["train"] if row["task"] == "sc")
    assert row_error(row, spec) is None and "no instruction" in row_error({**row, "instruction": None}, spec)
    with pytest.raises(ValueError, match="instruction"):
        spec.prompt("sc", None)


def test_a_model_is_asked_and_a_judge_too(tmp_path):
    """The released models are asked in their own words: a spec whose `pq` prompt holds no $instruction."""
    limits = {"pixels": {"min": 256, "max": 4096, "multiple": 16}, "max_new_tokens": 4}
    prompts = {"sc": "$instruction", "pq": PQ_PROMPT.replace("$", "$$")}
    save_spec(Spec(prompts=prompts, **limits), tmp_path)
    spec = load_spec(tmp_path)
    image = Image.new("RGB", (64, 64), "teal")
    backend = open_backend("transformers", str(BASE), spec, batch_size=2)
    requests = [Request("a", "pq", None, [image]), Request("b", "pq", "Add a cup.", [image])]
    assert len(list(backend(requests))) == 2
    [message] = messages_for([image], None, "pq", parse(json.dumps(PQ), "pq"), json.dumps(PQ))
    assert "(not given)" in message["content"][-1]["text"]
