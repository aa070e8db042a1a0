"""An epoch whose prompts fill no whole rollout ends at the planned step: what is left over is no lack of steps."""

import pytest

from tests.conftest import BASE, ROOT


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "accumulation", "steps"), [(21, 1, 5), (23, 2, 2), (24, 3, 2)])
def test_an_epoch_ends_at_the_planned_step(small_data, tmp_path, tiny_processor, rows, accumulation, steps):
    from trl import GRPOConfig, ModelConfig

    from data.rows import for_training, load_rows
    from grpo.train import build_trainer
    from pipeline.model import Inputs
    from pipeline.training import train_to_end
    from rewards_fn import load_rewards
    from spatial_edit_reward import load_spec
    from spatial_edit_reward.inference.model import load_model
    from tools.plan.stage import load_stage, step_count

    spec = load_spec(small_data).model_copy(update={"max_new_tokens": 4})
    stored = load_rows(small_data / "rl.parquet", spec).select(range(rows))
    options = {
        "num_generations": 2,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": accumulation,
        "steps_per_generation": accumulation,
        "num_train_epochs": 1,
    }
    args = GRPOConfig(output_dir=str(tmp_path), report_to=[], save_strategy="no", use_cpu=True, bf16=False, **options)
    targets = r"model\.language_model\.layers\.3\.self_attn\.q_proj"
    model_args = ModelConfig(model_name_or_path=str(BASE), use_peft=True, lora_target_modules=targets)
    inputs = Inputs(
        load_model(str(BASE), "float32", None), tiny_processor, spec, for_training(stored, spec, completions=False)
    )
    trainer = build_trainer(args, model_args, load_rewards(["format"]), inputs)
    train_to_end(trainer, tmp_path)
    assert trainer.state.global_step == trainer.state.max_steps == steps

    from types import SimpleNamespace

    stage = load_stage(ROOT / "recipes" / "tiny" / "grpo.yaml", {"max_steps": -1, **options})
    assert step_count(stage, SimpleNamespace(count=rows), gpus=1) == steps
