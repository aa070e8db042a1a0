"""Loss and gradients depend neither on padding, nor row order, nor how the global batch is split (fp32)."""

import subprocess
import sys

import pytest
import yaml

from tests.accelerate.launched import environment, free_port
from tests.conftest import BASE, ROOT, write_recipe

TOLERANCE = 1e-5
ROWS = 8
COMMON = {"report_to": "none", "save_strategy": "no", "logging_steps": 1, "max_steps": 1, "max_grad_norm": 0.0}


@pytest.fixture(scope="module", autouse=True)
def heavy_imports():
    """Made when the first test runs, not when tests are collected."""
    global grpo_trainer, loss_and_gradients, padded, select_rows, sft_trainer, torch
    import torch

    from tests.accelerate.gradients import grpo_trainer, loss_and_gradients, padded, select_rows, sft_trainer


def same(one, other):
    """Asserts that losses and gradients agree, and that there is something to compare."""
    one.pop("processes", None)
    assert set(one) == set(other) and len(one) > 20
    assert max(float(value.abs().max()) for name, value in other.items() if name != "loss") > 1e-3
    for name in one:
        assert float((one[name] - other[name]).abs().max()) < TOLERANCE, name


def run_two_processes(stage, tmp_path, *arguments, **more):
    """Loss and gradients of two real processes under DDP."""
    out = tmp_path / "out.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    command += ["-m", "tests.accelerate.gradients", stage, out, *arguments, "--ddp_backend", "gloo"]
    done = subprocess.run(
        [*map(str, command)], cwd=ROOT, env={**environment(), **more}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    gradients = torch.load(out)
    assert int(gradients["processes"]) == 2
    return gradients


@pytest.fixture(scope="module")
def sft_recipe(tmp_path_factory, small_data):
    """Stage 1 on eight rows of unlike length, which are one batch."""
    from datasets import Dataset

    from data.rows import features

    folder = tmp_path_factory.mktemp("sft")
    data = folder / "data"
    data.mkdir()
    for file in small_data.iterdir():
        (data / file.name).write_bytes(file.read_bytes())
    rows = Dataset.from_parquet(str(data / "train.parquet"), features=features())
    rows.select(range(ROWS)).to_parquet(str(data / "train.parquet"))
    changes = {**COMMON, "model_name_or_path": str(BASE), "data_dir": str(data), "output_dir": str(folder / "out")}
    return write_recipe(folder / "sft.yaml", "sft", **changes, eval_strategy="no")


def sft_options(recipe, rows, steps, *more):
    split = ["--per_device_train_batch_size", str(rows), "--gradient_accumulation_steps", str(steps)]
    return ["--config", str(recipe), *split, *more]


@pytest.fixture(scope="module")
def whole_sft(sft_recipe):
    return loss_and_gradients(sft_trainer(sft_options(sft_recipe, ROWS, 1)))


@pytest.mark.parametrize(
    ("rows", "steps", "more"),
    [
        (4, 2, ()),
        (2, 4, ()),
        (1, 8, ()),  # no padding at all
        (8, 1, ("--data_seed", "5")),  # another order
    ],
)
def test_sft(sft_recipe, whole_sft, rows, steps, more):
    same(loss_and_gradients(sft_trainer(sft_options(sft_recipe, rows, steps, *more))), whole_sft)


@pytest.mark.parametrize(("left", "right"), [(9, 0), (0, 13)])
def test_sft_padding(sft_recipe, whole_sft, left, right):
    trainer = sft_trainer(sft_options(sft_recipe, ROWS, 1))
    collate, token = trainer.data_collator, trainer.processing_class.tokenizer.pad_token_id
    fill = {"input_ids": token, "labels": -100, "attention_mask": 0, "mm_token_type_ids": 0}

    def wider(rows):
        batch = collate(rows)
        assert set(fill) < set(batch)
        more = {name: torch.nn.functional.pad(batch[name], (left, right), value=value) for name, value in fill.items()}
        return {**batch, **more}

    trainer.data_collator = wider
    same(loss_and_gradients(trainer), whole_sft)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "steps"), [(4, 1), (1, 4)])
def test_sft_in_two_processes(sft_recipe, whole_sft, tmp_path, rows, steps):
    same(run_two_processes("sft", tmp_path, *sft_options(sft_recipe, rows, steps)), whole_sft)


@pytest.fixture(scope="module")
def grpo_recipe(tmp_path_factory, small_data):
    folder = tmp_path_factory.mktemp("grpo")
    base = folder / "base"
    base.mkdir()
    for file in [*BASE.iterdir(), small_data / "verdict.json"]:
        (base / file.name).write_bytes(file.read_bytes())
    changes = {
        **COMMON,
        "model_name_or_path": str(base),
        "data_dir": str(small_data),
        "output_dir": str(folder / "out"),
        "lora_target_modules": yaml.safe_load((ROOT / "recipes" / "tiny" / "sft.yaml").read_text())[
            "lora_target_modules"
        ],  # every layer
        "temperature": 0.5,
        "num_generations": 4,
        "reward_funcs": ["tests.stages.length_reward:length"],
        "reward_weights": [1.0],
        "steps_per_generation": ...,
    }
    return write_recipe(folder / "grpo.yaml", "grpo", **changes)


def grpo_options(recipe, rows, steps, loss="dapo"):
    split = ["--per_device_train_batch_size", str(rows), "--gradient_accumulation_steps", str(steps)]
    return ["--config", str(recipe), *split, "--loss_type", loss]


@pytest.fixture(scope="module")
def generated(grpo_recipe):
    """Eight completions of unlike length, with their advantages."""
    trainer = grpo_trainer(grpo_options(grpo_recipe, ROWS, 1))
    trainer.model.train()
    batch = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    for row in range(ROWS):  # most were cut off at the limit: some end earlier, as at a stop token
        batch["completion_mask"][row, 4 + 3 * row :] = 0
    batch["num_items_in_batch"] = batch["completion_mask"].sum()
    assert len(set(batch["completion_mask"].sum(1).tolist())) > 2 and float(batch["advantages"].abs().max()) > 0.1
    return batch


@pytest.fixture(scope="module")
def whole_grpo(grpo_recipe, generated):
    return {
        loss: loss_and_gradients(grpo_trainer(grpo_options(grpo_recipe, ROWS, 1, loss)), generated)
        for loss in ("dapo", "grpo", "dr_grpo", "bnpo")
    }


@pytest.mark.parametrize(("rows", "steps", "loss"), [(4, 2, "dapo"), (1, 8, "dapo"), (2, 4, "grpo"), (2, 4, "dr_grpo")])
def test_grpo_split(grpo_recipe, generated, whole_grpo, rows, steps, loss):
    gradients = loss_and_gradients(grpo_trainer(grpo_options(grpo_recipe, rows, steps, loss)), generated)
    same(gradients, whole_grpo[loss])


def test_one_loss_that_the_docs_warn_of_does_depend_on_the_split(grpo_recipe, generated, whole_grpo):
    gradients = loss_and_gradients(grpo_trainer(grpo_options(grpo_recipe, 2, 4, "bnpo")), generated)
    assert max(float((gradients[name] - whole_grpo["bnpo"][name]).abs().max()) for name in gradients) > 10 * TOLERANCE


@pytest.mark.parametrize(("left", "right"), [(9, 0), (0, 13), (5, 3)])
def test_grpo_padding(grpo_recipe, generated, whole_grpo, tiny_processor, left, right):
    wider = padded(generated, left, right, tiny_processor.tokenizer.pad_token_id)
    assert wider["prompt_ids"].shape[1] == generated["prompt_ids"].shape[1] + left
    gradients = loss_and_gradients(grpo_trainer(grpo_options(grpo_recipe, ROWS, 1)), wider)
    same(gradients, whole_grpo["dapo"])


def test_grpo_order(grpo_recipe, generated, whole_grpo):
    turned = select_rows(generated, [5, 2, 7, 0, 3, 6, 1, 4])
    same(loss_and_gradients(grpo_trainer(grpo_options(grpo_recipe, 4, 2)), turned), whole_grpo["dapo"])


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "steps"), [(4, 1), (1, 4)])
def test_grpo_in_two_processes(grpo_recipe, generated, whole_grpo, tmp_path, rows, steps):
    file = tmp_path / "generated.pt"
    torch.save(generated, file)
    gradients = run_two_processes("grpo", tmp_path, *grpo_options(grpo_recipe, rows, steps), GENERATED=str(file))
    same(gradients, whole_grpo["dapo"])
