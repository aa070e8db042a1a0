"""The whole pipeline at a toy size, stage by stage as real processes; trackers; what the stages leave behind."""

import json
import re

import pytest
import yaml

from tests.conftest import BASE, run_stage, write_recipe

pytestmark = pytest.mark.slow


def succeeded(done):
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a toy recipe: folder of its stages, and what the report printed."""
    folder = tmp_path_factory.mktemp("runs") / "toy"
    folder.mkdir()
    recipes = folder.parent

    def recipe(stage, **changes):
        return write_recipe(recipes / f"{stage}.yaml", stage, **changes)

    data = recipe(
        "data",
        output_dir=str(folder / "data"),
        synthetic_groups={"train": 8, "validation": 1, "rl": 4, "heldout": 3},
        max_new_tokens=48,
    )
    sft = recipe(
        "sft",
        data_dir=str(folder / "data"),
        output_dir=str(folder / "sft"),
        max_steps=4,
        report_to=["tensorboard", "wandb"],
    )
    grpo = recipe(
        "grpo",
        model_name_or_path=str(folder / "sft" / "merged"),
        data_dir=str(folder / "data"),
        output_dir=str(folder / "grpo"),
        max_steps=2,
        per_device_train_batch_size=8,
        logging_steps=1,
        save_steps=1,
        report_to=["tensorboard", "trackio", "wandb"],
    )
    evaluation = recipe("eval", run_dir=str(folder), base=str(BASE), rewards_from=str(grpo), bootstrap_samples=50)
    succeeded(run_stage("data", "--config", data))
    succeeded(run_stage("sft", "--config", sft))
    succeeded(run_stage("grpo", "--config", grpo))
    merge = [
        "--base",
        folder / "sft" / "merged",
        "--adapter",
        folder / "grpo" / "adapter",
        "--output_dir",
        folder / "merge",
    ]
    succeeded(run_stage("export", "merge", *merge))
    assert "nothing to do" in succeeded(run_stage("export", "merge", *merge)).stdout
    succeeded(run_stage("evaluation", "heldout", "--config", evaluation))
    report = succeeded(run_stage("evaluation", "report", "--config", evaluation))
    return folder, report.stdout, evaluation


def test_heldout_json_has_every_figure(run):
    folder, printed, _ = run
    report = json.loads((folder / "report" / "heldout.json").read_text())
    assert report["rows"] == {"sc": 12, "pq": 12}
    assert set(report["models"]) == {"base", "sft", "grpo", "merged"}
    assert set(report["differences"]) == {"sft-base", "grpo-sft"}
    for figures in [*report["models"].values(), *report["differences"].values()]:
        for metric in ("valid", "box_iou", "empty_region", "score_agreement", "reward", "ranking_accuracy", "tie_rate"):
            assert figures[metric]["low"] <= figures[metric]["mean"] <= figures[metric]["high"]
    assert report["models"]["base"]["valid"]["mean"] == 0
    assert report["merged_equals_grpo"] == {"same": 24, "rows": 24}
    assert report["models"]["merged"] == report["models"]["grpo"]
    assert "box_iou" in printed and "24 of 24" in printed


def test_the_page_is_self_contained(run):
    page = (run[0] / "report" / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 24 and "data:image/svg+xml;base64," in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)


def test_an_interrupted_evaluation_goes_on(run):
    folder, _, evaluation = run
    file = folder / "eval" / "sft.jsonl"
    before = file.read_text().splitlines()
    file.write_text("\n".join(before[:-2]) + "\n" + before[-2][:20])
    record = folder / "eval" / "fingerprint.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "finished": False}))
    succeeded(run_stage("evaluation", "heldout", "--config", evaluation))
    assert sorted(file.read_text().splitlines()) == sorted(before)


def test_grpo_logs_rewards_groups_lengths_and_samples(run):
    folder = run[0]
    history = json.loads((folder / "grpo" / "trainer_state.json").read_text())["log_history"]
    names = set().union(*history)
    assert {"rewards/box_iou/mean", "rewards/score_agreement/mean", "rewards/format/mean"} <= names
    assert {"frac_reward_zero_std/format", "frac_reward_zero_std/weighted_sum"} <= names
    assert "frac_reward_zero_std" in names  # TRL's own, beside ours
    assert {"completions/mean_length", "completions/clipped_ratio"} <= names
    assert "data:image/png" in (folder / "grpo" / "samples" / "step-00002.html").read_text()
    for stage in ("sft", "grpo"):
        assert list((folder / stage).rglob("events.out.tfevents.*"))


def test_every_checkpoint_holds_the_spec(run):
    folder = run[0]
    folders = [folder / "data", folder / "sft" / "merged", folder / "merge", *folder.glob("*/checkpoint-*")]
    assert len(folders) >= 5
    assert len({(path / "verdict.json").read_text() for path in folders}) == 1


def test_grpo_refuses_a_checkpoint_without_a_spec(run, tmp_path):
    folder = run[0]
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in (folder / "sft" / "merged").iterdir():
        if file.name != "verdict.json":
            (bare / file.name).write_bytes(file.read_bytes())
    changes = {"model_name_or_path": str(bare), "data_dir": str(folder / "data"), "output_dir": str(tmp_path / "grpo")}
    done = run_stage("grpo", "--config", write_recipe(tmp_path / "grpo.yaml", "grpo", **changes))
    assert done.returncode != 0 and done.stderr.strip().splitlines()[-1].startswith(f"error: {bare}: no verdict.json")


def test_a_changed_recipe_is_refused_and_named(run, tmp_path):
    folder = run[0]
    changed = yaml.safe_load((folder.parent / "sft.yaml").read_text()) | {"seed": 9}
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(changed))
    done = run_stage("sft", "--config", tmp_path / "sft.yaml")
    assert done.returncode != 0 and "recipe.seed: 1 -> 9" in done.stderr and "OVERWRITE=1" in done.stderr
