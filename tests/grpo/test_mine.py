"""Mining: which rows are kept, and that samples are generated once, whatever stops or changes in between."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.rows import load_rows
from grpo.mine import MineRecipe, chosen, earned
from rewards_fn import box_iou, score_agreement
from spatial_edit_reward import load_spec, render
from tests.conftest import BASE, run_stage, write_recipe

PLAIN = {
    "run_dir": "runs/tiny",
    "rewards_from": "recipes/tiny/grpo.yaml",
    "samples": 2,
    "temperature": 1.0,
    "min_mean_reward": 0.2,
    "max_mean_reward": 0.7,
    "min_reward_std": 0.05,
    "batch_size": 8,
}


def test_hard_rows_with_spread_are_kept_lowest_first():
    values = np.array([[0.0, 0.1], [0.2, 0.6], [0.5, 0.5], [0.3, 0.5], [0.9, 1.0], [np.nan, np.nan]])
    assert chosen(values, MineRecipe(**PLAIN)).tolist() == [1, 3]
    assert chosen(values, MineRecipe(**PLAIN | {"min_reward_std": 0.0})).tolist() == [1, 2, 3]
    assert chosen(values, MineRecipe(**PLAIN | {"min_reward_std": 0.0, "max_rows": 1})).tolist() == [1]
    assert chosen(
        values, MineRecipe(**PLAIN | {"min_mean_reward": 0.0, "min_reward_std": 0.0, "max_rows": 2})
    ).tolist() == [
        0,
        1,
    ]


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=30),
    st.floats(0, 0.5),
    st.floats(0.5, 1),
    st.floats(0, 0.3),
)
def test_what_is_kept_meets_every_threshold(values, low, high, spread):
    recipe = MineRecipe(
        **PLAIN | {"min_mean_reward": low, "max_mean_reward": high, "min_reward_std": spread, "max_rows": 10}
    )
    table = np.array(values)
    kept = chosen(table, recipe)
    assert len(kept) <= 10 and kept.tolist() == sorted(kept)
    fits = [low <= row.mean() <= high and row.std() >= spread for row in table]
    assert all(fits[place] for place in kept) and len(kept) == min(sum(fits), 10)


def test_rewards_are_by_row_and_sample(small_data):
    rows = list(load_rows(small_data / "rl.parquet", load_spec(small_data)).remove_columns("images"))[:4]
    true = [render(row["task"], row["reference"]) for row in rows]
    values = earned(rows, [[text, "no verdict"] for text in true], [box_iou, score_agreement], [2.0, 1.0])
    assert values.tolist() == [[1.0, 0.0]] * 4


@pytest.fixture
def mined_run(small_data, tmp_path):
    """A run whose stage 1 is the untrained base: every stage's folder that mining reads, and its recipe."""
    run = tmp_path / "run"
    shutil.copytree(small_data, run / "data")
    shutil.copytree(BASE, run / "sft" / "merged")
    shutil.copy(small_data / "verdict.json", run / "sft" / "merged")
    changes = {"min_mean_reward": 0.0, "max_mean_reward": 1.0, "min_reward_std": 0.0, "batch_size": 16, "samples": 2}
    recipe = write_recipe(tmp_path / "mine.yaml", "mine", run_dir=str(run), **changes)
    return run, recipe


@pytest.mark.slow
def test_samples_are_generated_once(mined_run, tmp_path):
    run, recipe = mined_run
    done = run_stage("evaluation", "mine", "--config", recipe)
    assert done.returncode == 0, done.stderr
    spec = load_spec(run / "mine")
    kept = load_rows(run / "mine" / "rl.parquet", spec)
    rows = load_rows(run / "data" / "rl.parquet", spec)
    assert kept["id"] == rows["id"] and "24 candidates, 24 kept" in done.stdout
    (samples,) = (run / "mine" / "samples").rglob("*.jsonl")
    before = samples.read_text()
    assert all(len(json.loads(line)["completions"]) == 2 for line in before.splitlines())

    again = run_stage("evaluation", "mine", "--config", recipe)
    assert again.returncode == 0 and "nothing to do" in again.stdout

    # Other thresholds: no row is generated again. Here none is hard enough, which is said.
    changed = write_recipe(
        tmp_path / "mine.yaml", "mine", run_dir=str(run), samples=2, batch_size=16, min_mean_reward=0.99
    )
    refused = run_stage("evaluation", "mine", "--config", changed)
    assert refused.returncode != 0 and "no row has a mean reward" in refused.stderr.splitlines()[-1]
    assert samples.read_text() == before

    # Stopped in the middle of a line: the rest comes out as it did.
    lines = before.splitlines(keepends=True)
    samples.write_text("".join(lines[:16]) + lines[16][:30])
    assert run_stage("evaluation", "mine", "--config", changed).returncode != 0
    assert samples.read_text() == before


@pytest.mark.slow
def test_processes_share_the_rows(mined_run):
    run, recipe = mined_run
    done = run_stage("torch.distributed.run", "--nproc_per_node", 2, "-m", "evaluation", "mine", "--config", recipe)
    assert done.returncode == 0, done.stderr[-3000:]
    files = sorted((run / "mine" / "samples").rglob("*.jsonl"))
    rows = [[json.loads(line)["id"] for line in file.read_text().splitlines()] for file in files]
    assert [file.name for file in files] == ["0.jsonl", "1.jsonl"] and [len(part) for part in rows] == [12, 12]
    assert len({*rows[0], *rows[1]}) == 24 and done.stdout.count("24 candidates, 24 kept") == 1


def test_mining_names_the_missing_stage(mined_run):
    run, recipe = mined_run
    shutil.rmtree(run / "sft")
    done = run_stage("evaluation", "mine", "--config", recipe)
    assert done.returncode != 0 and "make sft" in done.stderr.splitlines()[-1]
