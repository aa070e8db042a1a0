"""What a user can get wrong: one line that names it, a non-zero exit, nothing half-written. Real processes."""

import pytest
from datasets import Dataset

from data.rows import features
from tests.conftest import ROOT, run_stage, write_recipe


def refused(done, *said):
    """Asserts that a stage ended with one clear line that holds every text of `said`."""
    assert done.returncode not in (0, None), done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: "), done.stderr
    for text in said:
        assert text in last


def test_stages_name_the_missing_earlier_stage(tmp_path):
    sft = write_recipe(tmp_path / "sft.yaml", "sft", data_dir=str(tmp_path / "data"), output_dir=str(tmp_path / "sft"))
    refused(run_stage("sft", "--config", sft), "make data")
    missing = str(tmp_path / "sft" / "merged")
    grpo = write_recipe(
        tmp_path / "grpo.yaml",
        "grpo",
        model_name_or_path=missing,
        data_dir=str(tmp_path),
        output_dir=str(tmp_path / "g"),
    )
    refused(run_stage("grpo", "--config", grpo), "make sft")
    refused(
        run_stage(
            "export",
            "merge",
            "--base",
            missing,
            "--adapter",
            tmp_path / "g" / "adapter",
            "--output_dir",
            tmp_path / "m",
        ),
        "make sft",
    )
    evaluation = write_recipe(tmp_path / "eval.yaml", "eval", run_dir=str(tmp_path))
    refused(run_stage("evaluation", "heldout", "--config", evaluation), "make data")
    refused(run_stage("evaluation", "report", "--config", evaluation), "make eval")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval.yaml", "grpo.yaml", "sft.yaml"]


@pytest.mark.parametrize(
    ("stage", "changes", "said"),
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
def test_wrong_recipes_are_refused_at_the_start(tmp_path, stage, changes, said):
    recipe = write_recipe(tmp_path / f"{stage}.yaml", stage, output_dir=str(tmp_path / "out"), **changes)
    refused(run_stage(stage, "--config", recipe), *said)
    assert not (tmp_path / "out").exists()


def test_a_row_out_of_range_is_named(tmp_path, small_data):
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
    recipe = write_recipe(tmp_path / "sft.yaml", "sft", data_dir=str(data), output_dir=str(tmp_path / "sft"))
    refused(run_stage("sft", "--config", recipe), "train.parquet", "row 'synthetic-", "0..1000")
    (data / "train.parquet").write_bytes(b"PAR1 no more")
    recipe = write_recipe(tmp_path / "sft.yaml", "sft", data_dir=str(data), output_dir=str(tmp_path / "sft2"))
    refused(run_stage("sft", "--config", recipe), "train.parquet", "not a Parquet file")


def test_help_lists_every_verb():
    import subprocess

    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for verb in ("demo", "data", "sft", "grpo", "merge", "eval", "report", "test", "test-all"):
        assert any(line.split()[:1] == [verb] for line in done.stdout.splitlines())
