"""Every verb that asks a model loads it on this process's device: here a device without numbers, where generating must fail."""

from types import SimpleNamespace

import pytest

from spatial_edit_reward import load_spec
from tests.conftest import BASE


def heldout(small_data, folder):
    from data.rows import load_rows
    from evaluation.heldout import plan_heldout, write_responses

    spec = load_spec(small_data)
    plan = plan_heldout(load_rows(small_data / "heldout.parquet", spec), spec)
    write_responses("base", str(BASE), None, plan, "transformers", 8, folder / "base.jsonl")


def mining(small_data, folder):
    from data.rows import load_rows
    from grpo.mine import MineConfig, row_keys, write_samples

    spec = load_spec(small_data)
    rows = load_rows(small_data / "rl.parquet", spec)
    limits = {"min_mean_reward": 0, "max_mean_reward": 1, "min_reward_std": 0}
    config = MineConfig(run_dir=folder, rewards_from=folder, samples=2, temperature=1, batch_size=8, **limits)
    write_samples(config, BASE, "hash", rows, row_keys(rows), spec, folder)


def trying(small_data, folder):
    import shutil

    from data.rows import load_rows
    from evaluation.try_pair import try_pair

    shutil.copytree(BASE, folder / "model")
    shutil.copy(small_data / "verdict.json", folder / "model")
    row = load_rows(small_data / "rl.parquet", load_spec(small_data))[0]
    for name, image in zip(("a.png", "b.png"), row["images"] * 2, strict=False):
        image.save(folder / name)
    try_pair(str(folder / "model"), folder / "a.png", folder / "b.png", "Add a cup.", folder / "try.html")


def diagnosing(small_data, folder):
    from data.rows import load_rows
    from evaluation.diagnose import diagnose

    spec = load_spec(small_data)
    diagnose(str(BASE), spec, load_rows(small_data / "heldout.parquet", spec), 1, folder)


@pytest.mark.parametrize("verb", [heldout, mining, trying, diagnosing])
def test_a_model_is_asked_on_the_device_of_its_process(verb, small_data, tmp_path, monkeypatch):
    import torch

    import spatial_edit_reward.inference.model as module

    device = SimpleNamespace(device=torch.device("meta"))
    monkeypatch.setattr(module, "PartialState", lambda cpu: device)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        verb(small_data, tmp_path)
