"""What a recipe takes of the machine beside its GPUs, and the time of what asks a model outside training."""

import shutil

import pytest

from spatial_edit_reward import load_spec
from tests.conftest import BASE, ROOT


@pytest.fixture
def setting(monkeypatch):
    """The setting of a recipe's stage, without building the 8B's model twice."""
    from tools.plan.report import load_setting
    from tools.plan.stage import load_stage

    monkeypatch.chdir(ROOT)

    def make(recipe, stage="sft", gpus=None, engine=None, **changes):
        folder = ROOT / "recipes" / recipe
        return load_setting(load_stage(folder / f"{stage}.yaml", changes), folder, None, gpus, engine)

    return make


def test_host_memory_is_that_of_the_processes_and_hardly_of_the_rows(setting):
    from tools.plan.node import GROUP_BYTES, disk_bytes, host_bytes, row_bytes

    plan = setting("spatialreward-2b")
    parts = host_bytes(plan)
    weights = 2 * sum(p.numel() for name, p in plan.model.named_parameters() if "lora_" not in name)
    assert parts["weights while they load"] == 8 * weights
    assert row_bytes(plan) == 244_400 * 1.5 * 380_000 and GROUP_BYTES < 2e7
    assert parts["rows"] < 0.02 * 8 * row_bytes(plan)
    assert host_bytes(setting("spatialreward-2b", engine="zero3"))["weights while they load"] == weights
    disk = disk_bytes(plan)
    assert disk["rows"] == row_bytes(plan) and disk["the base, in HF_HOME"] == weights
    trained = sum(p.numel() for p in plan.model.parameters() if p.requires_grad)
    assert disk["3 checkpoints"] == 3 * 12 * trained  # fp32, and two moments


def test_disk_is_measured_where_the_rows_are(setting, small_data):
    from tools.plan.node import disk_bytes

    disk = disk_bytes(setting("tiny", data_dir=str(small_data)))
    assert disk["rows"] == (small_data / "train.parquet").stat().st_size and "the base, in HF_HOME" not in disk


def test_mining_and_evaluation_have_their_time(setting):
    import re

    from tools.plan.sampling import describe_sampling

    mining, evaluation = describe_sampling(setting("spatialreward-2b"), ROOT / "recipes" / "spatialreward-2b")
    assert "28,000 rows x 4 verdicts by vllm" in mining and "4 models x 5,200 held-out rows" in evaluation
    hours = [float(re.search(r"; ([\d.]+) GPU hours", line).group(1)) for line in (mining, evaluation)]
    # Token by token: the mean answer of 300 tokens, half as long again for the last ones, 256 at a time in vLLM.
    assert 0.3 < hours[0] < 4
    # 600 tokens of 0.04 s in batches of 64
    assert hours[1] == pytest.approx(4 * 5200 / 64 * 600 * 0.04 / 3600, rel=0.15)
    assert all("not estimated" in line for line in describe_sampling(setting("tiny"), ROOT / "recipes" / "tiny"))


def test_candidates_are_those_that_are_there_and_at_most_the_cap(setting, small_data, tmp_path):
    from tools.plan.sampling import describe_sampling

    shutil.copytree(small_data, tmp_path / "data")
    plan = setting("tiny")
    for cap, rows in ((None, 24), (10, 10)):
        recipe = {"run_dir": str(tmp_path), "rewards_from": "x", "samples": 2, "temperature": 1, "batch_size": 4}
        limits = {"min_mean_reward": 0, "max_mean_reward": 1, "min_reward_std": 0, "max_candidates": cap}
        (tmp_path / "mine.yaml").write_text(
            "\n".join(f"{k}: {'null' if v is None else v}" for k, v in (recipe | limits).items())
        )
        assert describe_sampling(plan, tmp_path) == [
            f"mining: {rows} rows x 2 verdicts by transformers; time: not estimated"
        ]


def test_the_length_of_a_verdict_is_measured_where_stage_1_has_rows(small_data, tmp_path):
    from tools.plan.rows import from_file, mean_answer

    spec = load_spec(small_data)
    mean = mean_answer(small_data / "train.parquet", spec, str(BASE))
    assert mean == pytest.approx(from_file(small_data / "train.parquet", spec, 8, str(BASE)).answer)
    assert mean_answer(tmp_path / "train.parquet", spec, str(BASE)) is None


def test_tokens_are_those_of_the_real_tokenizer_where_it_is_installed():
    pytest.importorskip("dashscope")
    from tools.plan.rows import text_length

    text = "Replace the red cup on the left with a blue one and leave the rest of the picture as it is."
    assert text_length("Qwen/Qwen3-VL-8B-Instruct")(text, 4.0) == len(text.split()) + 1  # a token a word
    assert text_length("someone/other")(text, 4.0) == len(text) / 4


def test_a_reward_that_applies_to_too_few_rows_is_an_error(setting, small_data, tmp_path):
    from data.rows import load_rows
    from tools.plan.checks import check_rewards

    rows = load_rows(small_data / "rl.parquet", load_spec(small_data))
    unknown = [i for i, row in enumerate(rows.texts()) if row["reference"]["edit_region"] is None]
    rows.select(unknown).write(tmp_path / "rl.parquet")
    stage = setting("tiny", "grpo", data_dir=str(small_data)).stage
    assert not check_rewards(stage)
    [problem] = check_rewards(setting("tiny", "grpo", data_dir=str(tmp_path)).stage)
    assert problem.level == "error" and f"box_iou applies to 0 of {len(unknown)} rows" in problem.text
