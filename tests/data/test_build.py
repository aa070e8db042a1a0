"""A mix of sources through the stage: groups, splits, prompts, what is dropped between rows, and what it prints."""

import json
from pathlib import Path

import pytest

from data.rows import load_rows
from spatial_edit_reward import load_spec
from tests.data.broken_rows import PQ, SC, row
from tests.data.conftest import data_recipe, human_rows, noise, prepared, write_lines

OWN_SC = "<image><image>Compare. The editor was told: {}\nGive success and over-editing, 0 to 25."
OWN_PQ = "<image>Look closely. The editor was told: {}\nGive naturalness and artifacts, 0 to 25."
# Instruction by edit: edits 0 and 1 are of one source image.
WORDS = [f"{verb} the {noun}." for verb in ("Remove", "Paint", "Move") for noun in ("cup", "old lamp", "dog")]


def chat(prompt: str, verdict: dict, images: list[str]) -> dict:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": json.dumps(verdict)}]
    return {"images": images, "messages": turns}


def write_sources(folder: Path) -> list[dict]:
    """Three layouts: verdicts with boxes under prompts of their own (`pq` before `sc`), scores without, human scores."""
    (folder / "images").mkdir()
    spatial, score = [], []
    for edit, words in enumerate(WORDS):
        noise(100 + edit // 2).save(folder / "images" / f"{edit // 2}.png")
        noise(200 + edit).save(folder / "images" / f"edit{edit}.png")
        spatial.append(chat(OWN_PQ.format(words), PQ, [f"images/edit{edit}.png"]))
    for edit, words in enumerate(WORDS):
        spatial.append(chat(OWN_SC.format(words), SC, [f"images/{edit // 2}.png", f"images/edit{edit}.png"]))
        bare = {"reasoning": "It was done well enough.", "score": [3, 4]}
        noise(300 + edit).save(folder / "images" / f"other{edit}.png")
        own = edit == len(WORDS) - 1  # the others share their source image with an edit of the first layout
        noise(400).save(folder / "images" / "own.png")
        images = ["images/own.png" if own else f"images/{edit // 2}.png", f"images/other{edit}.png"]
        score.append(
            row(
                bare,
                images=tuple(images),
                instruction=words,
                messages=...,
                conversations=[
                    {"from": "human", "value": f"<image><image>Rate: {words}"},
                    {"from": "gpt", "value": json.dumps(bare)},
                ],
            )
        )
    write_lines(folder / "spatial.jsonl", spatial)
    (folder / "reward.json").write_text(json.dumps(score))
    human_rows(folder)
    stage1 = {"train": 3, "validation": 1, "heldout": 1}
    return [
        {"name": "spatial", "layout": "spatialreward", "path": str(folder / "spatial.jsonl"), "splits": stage1},
        {"name": "score", "layout": "editscore", "path": str(folder / "reward.json"), "splits": {"rl": 1}},
        {
            "name": "human",
            "layout": "editreward",
            "path": str(folder / "human.parquet"),
            "score_range": [1, 4],
            "splits": {"rl": 1},
        },
    ]


GROUPS = {"train": 2, "validation": 1, "rl": 1, "heldout": 1}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """(the stage's folder, its finished process, its report)."""
    folder = tmp_path_factory.mktemp("mixed")
    sources = write_sources(folder)
    changes = {"prompt_from": "spatial", "processes": 2, "synthetic_groups": GROUPS}
    done, report = prepared(data_recipe(folder, sources, **changes))
    assert done.returncode == 0, done.stderr
    return folder / "data", done, report


def rows_of(folder: Path) -> dict[str, list[dict]]:
    spec = load_spec(folder)
    return {file.stem: list(load_rows(file, spec)) for file in sorted(folder.glob("*.parquet"))}


def test_no_image_and_no_group_crosses_splits(mixed):
    split_of: dict[object, str] = {}
    for split, rows in rows_of(mixed[0]).items():
        for its in rows:
            for tie in [*(image.tobytes() for image in its["images"]), its["group"]]:
                assert tie is None or split_of.setdefault(tie, split) == split


def test_a_pq_row_follows_its_edit_into_split_and_group(mixed):
    rows = {its["id"]: (split, its) for split, rows in rows_of(mixed[0]).items() for its in rows}
    for edit in range(len(WORDS)):
        (split, sc), (its_split, pq) = rows[f"spatial-{len(WORDS) + edit}-sc"], rows[f"spatial-{edit}-pq"]
        assert split == its_split and sc["group"] == pq["group"] is not None
        assert sc["instruction"] == pq["instruction"] == WORDS[edit]
    groups = [rows[f"human-0-{side}-{task}"][1]["group"] for side in ("left", "right") for task in ("sc", "pq")]
    assert len(set(groups)) == 1 and groups[0] is not None


def test_the_sources_own_prompt_trains(mixed):
    folder, _, report = mixed
    spec = load_spec(folder)
    assert (
        spec.prompts["sc"]
        == "Compare. The editor was told: $instruction\nGive success and over-editing, $low to $high."
    )
    assert spec.prompt("pq", "X.") == OWN_PQ.removeprefix("<image>").format("X.")
    assert report["prompts"]["spatial"]["sc"]["explained"] == len(WORDS)
    assert report["prompts"]["score"]["sc"]["template"] == "Rate: $instruction"
    assert report["sources"]["spatial"]["dropped"] == {}


def test_what_stage_1_cannot_imitate_is_for_stage_2_alone(mixed):
    folder, done, report = mixed
    rows = rows_of(folder)
    assert all(its["reference"]["reasoning"] for its in rows["train"] + rows["validation"])
    assert not {"score", "human"} & {its["source"] for its in rows["train"] + rows["validation"]}
    # Edits of an image that trains or is held out go where it goes, and their source names `rl` alone.
    assert report["sources"]["score"]["dropped"] == {"other_split": len(WORDS) - 1}
    human = [its for its in rows["rl"] if its["source"] == "human"]
    by_id = {its["id"]: its["reference"] for its in human}
    assert by_id["human-0-left-sc"]["score"] == [25, 25] and by_id["human-0-left-pq"]["score"] == [12.5, 12.5]
    assert by_id["human-0-right-sc"] == {"edit_region": None, "score": [0, 0], "reasoning": None}
    assert report["sources"]["human"]["dropped"] == {"not_a_row": 1}
    assert "human: human scores without words" in done.stdout and "not usable for SFT" in done.stdout


def test_drawn_groups_come_in_beside_them(mixed):
    folder, _, report = mixed
    assert report["sources"]["synthetic"] == {"in": 40, "kept": 40, "fixed_rows": 0, "fixed": {}, "dropped": {}}
    drawn = [its for its in rows_of(folder)["train"] if its["source"] == "synthetic"]
    assert len(drawn) == 16 and drawn[0]["id"] == "synthetic-0-0-0-sc" and drawn[0]["group"] == "synthetic-0-0"
    assert not (folder / "shards").exists()


@pytest.mark.slow
def test_a_row_that_the_template_does_not_explain_is_reported_and_many_are_refused(tmp_path):
    sources = write_sources(tmp_path)[:1]
    lines = (tmp_path / "spatial.jsonl").read_text().splitlines()
    foreign = json.dumps(chat("No. What?", PQ, ["images/edit1.png"]))
    write_lines(tmp_path / "spatial.jsonl", [*lines * 30, foreign])
    recipe = data_recipe(tmp_path, sources, prompt_from="spatial")
    done, report = prepared(recipe)
    assert done.returncode == 0, done.stderr
    assert report["sources"]["spatial"]["dropped"] == {}  # a pq row needs no instruction
    assert report["prompts"]["spatial"]["pq"]["not_explained"] == 1
    # After the sample from which the template is recovered, so that only the count finds them.
    write_lines(tmp_path / "spatial.jsonl", lines * 230 + [foreign] * 60)
    done, _ = prepared(recipe)
    assert done.returncode != 0
    assert "prompt_from" in done.stderr.splitlines()[-1] and "fewer than 99%" in done.stderr.splitlines()[-1]
    done, _ = prepared(data_recipe(tmp_path, sources, prompt_from="nobody"))
    assert "no source 'nobody'" in done.stderr.splitlines()[-1]
