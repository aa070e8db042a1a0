"""What a user can get wrong: one line that names it, a non-zero exit, nothing half-written.

The stages run in this process, and each command once as a process of its own.
"""

import importlib
import sys

import pytest

from pipeline.fingerprint import mark_started
from spatial_edit_reward import Spec, save_spec
from tests.conftest import BASE, ROOT, run_stage, write_recipe


def one_error(text, *parts):
    """Asserts that `text` is one line of an error that holds every one of `parts`."""
    assert text.startswith("error: ") and "\n" not in text, text
    for part in parts:
        assert part in text


def refused(done, *parts):
    """Asserts that a process ended with one clear line that holds every one of `parts`."""
    assert done.returncode not in (0, None), done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    one_error(done.stderr.strip().splitlines()[-1], *parts)


@pytest.fixture
def run(monkeypatch):
    """Runs a stage's `main` with arguments, and returns what it ends with: the error's line."""
    monkeypatch.chdir(ROOT)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)

    def stage(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            importlib.import_module(f"{module}.__main__").main()
        return end.value.code

    return stage


@pytest.fixture
def inputs(tmp_path):
    """Changes of a recipe after which its inputs are there, as far as a stage looks before it reads them."""
    (tmp_path / "data").mkdir()
    (tmp_path / "model").mkdir()
    save_spec(Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=24), tmp_path / "model")
    paths = {"data_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "out")}
    return {
        "sft": paths,
        "grpo": {**paths, "model_name_or_path": str(tmp_path / "model")},
        "data": {"output_dir": paths["output_dir"]},
    }


def test_every_command_names_the_missing_earlier_stage(tmp_path):
    """As processes. The training stages do so before TRL is imported."""
    sft = write_recipe(tmp_path / "sft.yaml", "sft", data_dir=str(tmp_path / "data"), output_dir=str(tmp_path / "sft"))
    refused(run_stage("sft", "--config", sft), "make data")
    missing = str(tmp_path / "sft" / "merged")
    paths = {"model_name_or_path": missing, "data_dir": str(tmp_path), "output_dir": str(tmp_path / "g")}
    refused(run_stage("grpo", "--config", write_recipe(tmp_path / "grpo.yaml", "grpo", **paths)), "make sft")
    merge = ["--base", missing, "--adapter", tmp_path / "g" / "adapter", "--output_dir", tmp_path / "m"]
    refused(run_stage("export", "merge", *merge), "make sft")
    evaluation = write_recipe(tmp_path / "eval.yaml", "eval", run_dir=str(tmp_path))
    refused(run_stage("evaluation", "heldout", "--config", evaluation), "make data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval.yaml", "grpo.yaml", "sft.yaml"]


def test_the_report_and_stage_2_name_a_stage_that_is_not_finished(tmp_path, run, inputs):
    evaluation = write_recipe(tmp_path / "eval.yaml", "eval", run_dir=str(tmp_path))
    one_error(run("evaluation", "report", "--config", evaluation), "eval is not finished", "make eval")
    (tmp_path / "sft" / "merged").mkdir(parents=True)
    paths = {**inputs["grpo"], "model_name_or_path": str(tmp_path / "sft" / "merged")}
    grpo = write_recipe(tmp_path / "grpo.yaml", "grpo", **paths)
    one_error(run("grpo", "--config", grpo), "sft is not finished", "make sft")
    mine = {**inputs["grpo"], "data_dir": str(tmp_path / "mine")}
    one_error(
        run("grpo", "--config", write_recipe(tmp_path / "grpo.yaml", "grpo", **mine)), "mine is not there", "make mine"
    )
    mark_started(tmp_path / "mine", {})  # made anew, and killed: the earlier rows are still there
    (tmp_path / "mine" / "rl.parquet").write_bytes(b"earlier rows")
    one_error(run("grpo", "--config", tmp_path / "grpo.yaml"), "mine is not finished", "make mine")
    assert not (tmp_path / "out").exists()


def test_a_wrong_data_recipe_is_refused_by_the_command(tmp_path):
    recipe = write_recipe(tmp_path / "data.yaml", "data", output_dir=str(tmp_path / "out"), sid=4)
    refused(run_stage("data", "--config", recipe), "data.yaml: unknown key 'sid'")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("sft", {"learning_rat": 1.0}, ["sft.yaml", "'learning_rat'", "learning_rate"]),
        ("sft", {"learning_rate": "quick"}, ["sft.yaml", "learning_rate", "'quick'"]),
        ("grpo", {"num_generations": 1}, ["grpo.yaml", "2 generations"]),
        ("grpo", {"loss_type": "dapoo"}, ["grpo.yaml", "loss_type", "dapo"]),
        ("grpo", {"reward_funcs": ["box_iuo"]}, ["box_iuo", "known: box_iou"]),
        ("grpo", {"reward_weights": [1.0]}, ["reward_weights", "3 reward_funcs"]),
        (
            "grpo",
            {"gradient_accumulation_steps": 2, "steps_per_generation": 4, "save_steps": 3},
            ["save_steps", "multiple"],
        ),
        ("data", {"image_size": 4}, ["data.yaml", "image_size"]),
        ("data", {"backgrounds": "/nowhere"}, ["/nowhere", "backgrounds"]),
        ("data", {"tokenizer": "/nowhere"}, ["tokenizer", "/nowhere"]),
        ("data", {"policy": {"fense": "fix"}}, ["data.yaml", "policy", "'fense'", "known: "]),
        ("data", {"synthetic_groups": ...}, ["data.yaml: nothing to make rows of"]),
        ("data", {"prompts": ..., "prompt_from": "nobody"}, ["data.yaml: prompt_from", "'nobody'"]),
    ],
)
def test_wrong_recipes_are_refused_at_the_start(tmp_path, run, inputs, stage, changes, message):
    recipe = write_recipe(tmp_path / f"{stage}.yaml", stage, **{**inputs[stage], **changes})
    one_error(run(stage, "--config", recipe), *message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["data", "sft", "grpo"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_the_users_is_no_output_folder(tmp_path, run, inputs, small_data, stage, overwrite):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photo.jpg").write_text("mine")
    paths = {**inputs[stage], **({"data_dir": str(small_data)} if stage != "data" else {})}
    flags = [] if not overwrite else ["--overwrite"] if stage == "data" else ["--overwrite", "true"]
    recipe = write_recipe(tmp_path / f"{stage}.yaml", stage, **paths)
    one_error(run(stage, "--config", recipe, *flags), f"{tmp_path / 'out'} holds files of another origin")
    assert [(path.name, path.read_text()) for path in (tmp_path / "out").iterdir()] == [("photo.jpg", "mine")]


def test_a_row_out_of_range_is_named(tmp_path, small_data, run):
    from datasets import Dataset

    from data.rows import features

    data = tmp_path / "data"
    data.mkdir()
    for file in small_data.iterdir():
        (data / file.name).write_bytes(file.read_bytes())
    rows = Dataset.from_parquet(str(data / "train.parquet"), features=features())

    def stretch(reference):
        for region in reference["edit_region"] or ():
            region["bbox_2d"] = [0, 0, 1200, 10]
        return {"reference": reference}

    rows.map(stretch, input_columns=["reference"]).to_parquet(str(data / "train.parquet"))
    paths = {"model_name_or_path": str(BASE), "data_dir": str(data)}
    recipe = write_recipe(tmp_path / "sft.yaml", "sft", **paths, output_dir=str(tmp_path / "sft"))
    one_error(run("sft", "--config", recipe), "train.parquet", "row 'synthetic-", "0..1000")
    (data / "train.parquet").write_bytes(b"PAR1 no more")
    recipe = write_recipe(tmp_path / "sft.yaml", "sft", **paths, output_dir=str(tmp_path / "sft2"))
    one_error(run("sft", "--config", recipe), "train.parquet", "not a Parquet file")
