"""Training that ends early is an error: rows whose image tokens run out, and any other stop before the planned step."""

import pytest

from spatial_edit_reward import load_spec
from spatial_edit_reward.errors import UserError
from tests.conftest import BASE


@pytest.fixture
def make_trainer(small_data, tiny_processor, tmp_path):
    """A trainer of the tiny base on 16 rows; the instruction of `bad` holds an image token."""
    from trl import ModelConfig, SFTConfig

    from data.rows import for_training, load_rows
    from pipeline.model import Inputs
    from sft.train import build_trainer
    from spatial_edit_reward.inference.model import load_model

    def make(bad=None, **options):
        spec = load_spec(small_data)
        rows = list(for_training(load_rows(small_data / "train.parquet", spec).select(range(16)), spec, True))
        if bad is not None:
            rows[bad]["prompt"][0]["content"][-1]["text"] += " <|image_pad|>"
        args = SFTConfig(
            output_dir=str(tmp_path / "sft"),
            per_device_train_batch_size=4,
            num_train_epochs=1,
            max_length=None,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            **options,
        )
        targets = r"model\.language_model\.layers\.3\.self_attn\.q_proj"
        model_args = ModelConfig(model_name_or_path=str(BASE), use_peft=True, lora_target_modules=targets)
        model = load_model(str(BASE), "float32", None)
        from datasets import Dataset

        by_index = Dataset.from_dict({"images": range(16)}).with_transform(
            lambda batch: {name: [rows[i][name] for i in batch["images"]] for name in rows[0]}
        )
        return build_trainer(args, model_args, Inputs(model, tiny_processor, spec, by_index)), rows

    return make


@pytest.mark.parametrize("workers", [0, 1])
def test_a_row_with_an_image_token_too_many_is_named(make_trainer, tmp_path, workers):
    from pipeline.training import train_to_end

    trainer, rows = make_trainer(bad=9, dataloader_num_workers=workers)
    with pytest.raises(UserError) as raised:
        train_to_end(trainer, tmp_path / "sft")
    assert str(raised.value) == f"row '{rows[9]['id']}': its text holds more image tokens than it has images"


def test_fewer_steps_than_planned_are_an_error(make_trainer, tmp_path):
    from transformers import TrainerCallback

    from pipeline.training import train_to_end

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 2

    trainer, _ = make_trainer()
    trainer.add_callback(Stop())
    with pytest.raises(UserError, match="ended at step 2 of 4, so nothing is merged"):
        train_to_end(trainer, tmp_path / "sft")
    trainer, _ = make_trainer()
    train_to_end(trainer, tmp_path / "sft")
    assert trainer.state.global_step == 4 and (tmp_path / "sft" / "trainer_state.json").exists()
