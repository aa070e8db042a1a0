"""Both stages as two real CPU processes under every engine: the same rewards and weights, saved whole, resumed."""

import json
import shutil
from pathlib import Path

import pytest

from tests.accelerate.launched import ENGINES, check_engine, run_under
from tests.conftest import BASE, run_stage, write_recipe

pytestmark = pytest.mark.slow

COMMON = {"report_to": "none", "save_steps": 2, "logging_steps": 1, "ddp_backend": "gloo"}
SFT = {**COMMON, "per_device_train_batch_size": 2, "eval_strategy": "no", "model_name_or_path": str(BASE)}
GRPO = {
    **COMMON,
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "steps_per_generation": 2,
    "gradient_accumulation_steps": 2,
    "save_steps": 1,
    "reward_funcs": ["tests.stages.length_reward:length"],  # one that the untrained base earns with some spread
    "reward_weights": [1.0],
}
# For the 8B the paper trains all parameters, here of the language model and the vision tower alike.
FULL = {"use_peft": False, "lora_r": ..., "lora_alpha": ..., "lora_dropout": ..., "lora_target_modules": ...}


def history(output):
    return json.loads((output / "trainer_state.json").read_text())["log_history"]


def tensors(file):
    """The tensors of a safetensors file; some engines write the tied output layer beside the embeddings."""
    import torch
    from safetensors.torch import load_file

    weights = load_file(file)
    tied = weights.pop("lm_head.weight", None)
    assert tied is None or torch.equal(tied, weights["model.language_model.embed_tokens.weight"])
    return weights


def max_difference(one, other):
    """The largest difference of two safetensors files with the same tensors, none of them empty."""
    a, b = tensors(one), tensors(other)
    assert set(a) == set(b) and all(tensor.numel() for tensor in [*a.values(), *b.values()])
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def succeeded(done):
    assert done.returncode == 0, done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, small_data):
    """Folder with the base and its spec, the folder for recipes, and the folder of rows."""
    folder = tmp_path_factory.mktemp("engines")
    shutil.copytree(BASE, folder / "base")
    shutil.copy(small_data / "verdict.json", folder / "base")
    return folder, small_data


def recipe(inputs, stage, name, **changes):
    folder, data = inputs
    changes = {"data_dir": str(data), "output_dir": str(folder / name), **changes}
    return write_recipe(folder / f"{name}.yaml", stage, **changes), folder / name


@pytest.fixture(scope="module")
def alone(inputs):
    """Stage 1 of four steps in one process, with the global batch of two."""
    file, output = recipe(
        inputs, "sft", "sft-alone", **{**SFT, "per_device_train_batch_size": 4, "ddp_backend": ...}, max_steps=4
    )
    succeeded(run_stage("sft", "--config", file))
    return output


@pytest.mark.parametrize("engine", ENGINES)
def test_sft_ends_with_the_weights_of_one_process(inputs, alone, engine):
    file, output = recipe(inputs, "sft", f"sft-{engine}", **SFT, max_steps=4)
    done = succeeded(run_under(engine, "sft", "--config", file))
    check_engine(engine, output)
    assert done.stdout.count("engine: ") == 1 and ", 2 processes" in done.stdout
    assert json.loads((output / "merged" / "export_report.json").read_text())["passed"]
    assert max_difference(alone / "merged/model.safetensors", output / "merged/model.safetensors") < 1e-4
    assert moved_by_resuming(engine, "sft", file, 4, "adapter/adapter_model.safetensors") < 1e-6


def moved_by_resuming(engine, stage, file, last, trained):
    """How far the weights end from where they were when a run is stopped while it writes checkpoint `last`, and goes on."""
    output = file.with_suffix("")
    before = output / f"before-{Path(trained).name}"
    (output / trained).rename(before)
    (output / f"checkpoint-{last}" / "verdict.json").unlink()
    record = output / "fingerprint.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "finished": False}))
    done = succeeded(run_under(engine, stage, "--config", file))
    assert done.stdout.count(f"going on from {output / f'checkpoint-{last // 2}'}") == 1
    return max_difference(before, output / trained)


@pytest.fixture(scope="module")
def first_grpo(inputs):
    """Stage 2 of two steps, all parameters trained, under DDP: what the other engines must agree with."""
    return grpo_under(inputs, "ddp")


def grpo_under(inputs, engine):
    model = {"model_name_or_path": str(inputs[0] / "base")}
    file, output = recipe(
        inputs, "grpo", f"grpo-{engine}", **{**GRPO, **FULL, **model}, max_steps=2, learning_rate=1e-4
    )
    succeeded(run_under(engine, "grpo", "--config", file))
    check_engine(engine, output)
    return file, output


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "ddp"])
def test_grpo_of_all_parameters_agrees_resumes_and_its_weights_are_whole(inputs, first_grpo, engine):
    file, output = grpo_under(inputs, engine)
    first = first_grpo[1]
    ours, theirs = history(output), history(first)
    assert ours[0]["reward"] == theirs[0]["reward"] and ours[0]["reward_std"] > 0
    # Adam forgets the scale of gradients: their norm shows whether an engine weights accumulated batches otherwise.
    assert [one["grad_norm"] for one in ours[:2]] == pytest.approx([one["grad_norm"] for one in theirs[:2]], rel=1e-3)
    weights = "weights/model.safetensors"
    assert max_difference(first / weights, output / weights) < 1e-3
    assert max_difference(inputs[0] / "base/model.safetensors", output / weights) > 1e-5  # it trained
    merged = inputs[0] / f"merged-{engine}"
    merge = ["--base", inputs[0] / "base", "--checkpoint", output / "weights", "--output_dir", merged]
    succeeded(run_stage("export", "merge", *merge))
    assert max_difference(inputs[0] / "base/model.safetensors", merged / "model.safetensors") > 1e-5
    assert moved_by_resuming(engine, "grpo", file, 2, weights) < 1e-6
