"""Mining: which rows are kept, and that samples are generated once, whatever stops or changes in between."""

import json
import os
import shutil
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo.hard_rows import hard_rows, make_report, sample_rewards
from grpo.mine import MineConfig, mine
from rewards_fn import box_iou, score_agreement
from spatial_edit_reward import load_spec, render
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.store import read_responses
from tests.conftest import BASE, run_stage, write_recipe
from tests.endpoint import chat

LIMITS = {"min_mean_reward": 0.2, "max_mean_reward": 0.7, "min_reward_std": 0.05, "max_rows": 7000}
OPEN = {"min_mean_reward": 0.0, "max_mean_reward": 1.0, "min_reward_std": 0.0}


def test_hard_rows_that_differ_are_kept_lowest_first():
    values = np.array([[0.0, 0.1], [0.2, 0.6], [0.5, 0.5], [0.3, 0.5], [0.9, 1.0], [np.nan, np.nan]])
    assert hard_rows(values, **LIMITS).tolist() == [1, 3]
    assert hard_rows(values, **LIMITS | {"min_reward_std": 0.0}).tolist() == [1, 2, 3]
    assert hard_rows(values, **LIMITS | {"min_reward_std": 0.0, "max_rows": 1}).tolist() == [1]
    assert hard_rows(values, **LIMITS | OPEN | {"max_mean_reward": 0.7, "max_rows": 2}).tolist() == [0, 1]


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=30),
    st.floats(0, 0.5),
    st.floats(0.5, 1),
    st.floats(0, 0.3),
)
def test_what_is_kept_meets_every_limit(values, low, high, std):
    table = np.array(values)
    kept = hard_rows(table, low, high, std, max_rows=10)
    assert len(kept) <= 10 and kept.tolist() == sorted(kept)
    fits = [low <= row.mean() <= high and row.std() >= std for row in table]
    assert all(fits[index] for index in kept) and len(kept) == min(sum(fits), 10)


def test_rewards_are_by_row_and_sample(small_data):
    from data.rows import load_rows

    rows = list(load_rows(small_data / "rl.parquet", load_spec(small_data)).texts())[:4]
    true = [render(row["task"], row["reference"]) for row in rows]
    values = sample_rewards(rows, [[text, "no verdict"] for text in true], [box_iou, score_agreement], [2.0, 1.0])
    assert values.tolist() == [[1.0, 0.0]] * 4


@pytest.fixture
def mined_run(small_data, tmp_path):
    """A run whose stage 1 is the untrained base: every stage's folder that mining reads, and its recipe."""
    run = tmp_path / "run"
    shutil.copytree(small_data, run / "data")
    shutil.copytree(BASE, run / "sft" / "merged")
    shutil.copy(small_data / "verdict.json", run / "sft" / "merged")
    recipe = write_recipe(tmp_path / "mine.yaml", "mine", run_dir=str(run), **OPEN, batch_size=16, samples=2)
    return run, recipe


def config_of(run, **changes):
    recipe = {
        "run_dir": run,
        "rewards_from": "recipes/tiny/grpo.yaml",
        "samples": 2,
        "temperature": 1.0,
        "batch_size": 16,
    }
    return MineConfig(**recipe | OPEN | changes)


def samples_in(run):
    (file,) = (run / "mine" / "samples").glob("*.jsonl")
    return file


def test_samples_of_any_backend_are_stored_and_asked_for_once(mined_run, endpoint, monkeypatch, capsys):
    run, _ = mined_run
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url)
    valid = '{"reasoning": "line\u2028separator and \u0085", "score": [9, 9]}'
    endpoint.answer = lambda number, body: (400, {}, b"{}") if number == 5 else chat(valid)
    with pytest.raises(UserError, match="1 of 48 samples missing: run the same command"):
        mine(config_of(run, backend="openai", top_p=0.5), overwrite=False)
    mine(config_of(run, backend="openai", top_p=0.5), overwrite=False)
    assert len(endpoint.received) == 49 and "24 candidates, 24 kept" in capsys.readouterr().out
    assert {(body["temperature"], body["top_p"]) for body in endpoint.received} == {(1.0, 0.5)}
    texts = [line["text"] for line in read_responses(samples_in(run)).values()]
    assert texts == [valid] * 48 and json.loads((run / "mine" / "mine_report.json").read_text())["kept"] == 24
    os.link(run / "mine" / "rl.parquet", run / "earlier.parquet")

    # More samples: those that are there are not asked for again. Other thresholds: none is.
    mine(config_of(run, backend="openai", top_p=0.5, samples=3), overwrite=False)
    assert len(endpoint.received) == 49 + 24
    assert not (run / "mine" / "rl.parquet").samefile(run / "earlier.parquet"), "written in place"
    assert not list((run / "mine").glob("*.partial"))
    with pytest.raises(UserError, match=r"no row has a mean reward in 0\.99"):
        mine(config_of(run, backend="openai", top_p=0.5, min_mean_reward=0.99), overwrite=False)
    assert len(endpoint.received) == 49 + 24


@pytest.mark.slow
def test_samples_are_generated_once(mined_run, tmp_path):
    from data.rows import load_rows

    run, recipe = mined_run
    done = run_stage("grpo.mine", "--config", recipe)
    assert done.returncode == 0, done.stderr
    spec = load_spec(run / "mine")
    kept = load_rows(run / "mine" / "rl.parquet", spec)
    rows = load_rows(run / "data" / "rl.parquet", spec)
    assert [row["id"] for row in kept] == [row["id"] for row in rows] and "24 candidates, 24 kept" in done.stdout
    samples = samples_in(run)
    before = samples.read_text()
    assert len(read_responses(samples)) == 48

    again = run_stage("grpo.mine", "--config", recipe)
    assert again.returncode == 0 and "nothing to do" in again.stdout

    # Other thresholds: no row is generated again. Here none is hard enough, which is an error.
    changed = write_recipe(
        tmp_path / "mine.yaml", "mine", run_dir=str(run), samples=2, batch_size=16, min_mean_reward=0.99
    )
    refused = run_stage("grpo.mine", "--config", changed)
    assert refused.returncode != 0 and "no row has a mean reward" in refused.stderr.splitlines()[-1]
    assert samples.read_text() == before

    # Stopped between two batches, in the middle of a line: the rest comes out as it did.
    lines = before.splitlines(keepends=True)
    samples.write_text("".join(lines[:33]) + lines[33][:30])
    assert run_stage("grpo.mine", "--config", changed).returncode != 0
    assert samples.read_text().replace(lines[33][:30] + "\n", "", 1) == before


@pytest.mark.slow
def test_processes_share_the_rows(mined_run):
    run, recipe = mined_run
    done = run_stage("torch.distributed.run", "--nproc_per_node", 2, "-m", "grpo.mine", "--config", recipe)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(read_responses(samples_in(run))) == 48 and samples_in(run).read_text().count("\n") == 49
    assert done.stdout.count("24 candidates, 24 kept") == 1


@pytest.mark.slow
def test_several_processes_with_vllm_are_refused(mined_run, tmp_path):
    run, _ = mined_run
    recipe = write_recipe(tmp_path / "vllm.yaml", "mine", run_dir=str(run), **OPEN, backend="vllm")
    done = run_stage("torch.distributed.run", "--nproc_per_node", 2, "-m", "grpo.mine", "--config", recipe)
    assert done.returncode != 0 and "backend: vllm: start one process" in done.stderr
    assert not (run / "mine").exists()


@pytest.mark.filterwarnings("error")
def test_the_mean_over_no_reward_is_none():
    report = make_report(np.full((2, 3), np.nan), np.array([], int))
    assert report["mean_reward"] == {"all": None, "kept": None} and sum(report["histogram"]["all"]) == 0
    report = make_report(np.array([[np.nan, np.nan], [0.25, 0.75]]), np.array([1]))
    assert report["mean_reward"] == {"all": 0.5, "kept": 0.5}


def test_mining_names_the_missing_stage(mined_run):
    run, _ = mined_run
    shutil.rmtree(run / "sft")
    with pytest.raises(UserError, match="make sft"):
        mine(config_of(run), overwrite=False)


@pytest.fixture
def lopsided(small_data, tmp_path):
    """A file of 120 rows in four kinds: 100 of unknown regions, 16 with one, 3 with two, 1 of `pq`."""
    from datasets import Dataset

    from data.rows import features

    stored = Dataset.from_parquet(str(small_data / "rl.parquet"), features=features())
    row = next(row for row in stored if row["task"] == "sc")
    box = {"id": 0, "label": "cup", "bbox_2d": [0, 0, 9, 9]}
    kinds = [None] * 100 + [[box]] * 16 + [[box, box | {"id": 1}]] * 3
    rows = [row | {"id": f"r{i}", "reference": row["reference"] | {"edit_region": of}} for i, of in enumerate(kinds)]
    rows.append(next(row for row in stored if row["task"] == "pq"))
    order = np.random.default_rng(1).permutation(len(rows))
    file = tmp_path / "rl.parquet"
    Dataset.from_list([rows[i] for i in order], features=features()).to_parquet(str(file))
    return file


def test_candidates_are_drawn_alike_from_every_kind_of_row(lopsided, small_data, capsys):
    from data.rows import load_rows
    from grpo.mine import choose_candidates, stratum

    rows = load_rows(lopsided, load_spec(small_data))
    chosen = choose_candidates(rows, 30, seed=0)
    counts = Counter(stratum(row)[1:] for row in chosen.texts())
    assert counts == {("sc", None): 13, ("sc", 1): 13, ("sc", 2): 3, ("pq", None): 1}
    assert "sampling 30 of 120 rows" in capsys.readouterr().out
    ids = [[row["id"] for row in choose_candidates(rows, 30, seed).texts()] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]
    assert choose_candidates(rows, None, 0) is rows and choose_candidates(rows, 120, 0) is rows


def test_mining_samples_no_more_than_max_candidates(mined_run, endpoint, monkeypatch, lopsided, capsys):
    run, _ = mined_run
    shutil.copy(lopsided, run / "data" / "rl.parquet")
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url)
    endpoint.answer = lambda number, body: chat('{"edit_region": [], "reasoning": "x", "score": [9, 9]}')
    mine(config_of(run, backend="openai", max_candidates=30), overwrite=False)
    assert "30 candidates" in capsys.readouterr().out
    # All rows here are of two images and texts, so that most requests are the same and sent once for each sample.
    assert len(endpoint.received) == 4


def test_a_reward_that_applies_to_too_few_rows_stops_mining_before_it_samples(mined_run, lopsided, endpoint):
    from data.rows import load_rows

    run, _ = mined_run
    rows = load_rows(lopsided, load_spec(run / "data"))
    known = [i for i, row in enumerate(rows.texts()) if row["reference"]["edit_region"] is not None]
    rows.select(sorted({*range(len(rows))} - {*known[4:]})).write(run / "data" / "rl.parquet")
    with pytest.raises(UserError, match=r"rl\.parquet: box_iou applies to 4 of 105 rows, fewer than 5%"):
        mine(config_of(run, backend="openai"), overwrite=False)
    assert not endpoint.received
