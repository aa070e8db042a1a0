"""One run of stage 1: rows in, adapter and merged weights out."""

from __future__ import annotations

from pathlib import Path

from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config

from data.rows import for_training, load_rows
from export.merge import merge
from pipeline.errors import UserError
from training.checkpoints import SpecBesideCheckpoints, last_whole_checkpoint
from training.model import load_model, load_processor, trained_parameters
from verdict import load_spec, save_spec


def make_trainer(args: SFTConfig, model_args: ModelConfig, data: Path) -> SFTTrainer:
    """The trainer, ready to run: loss on completions only, every token weighted alike over accumulation and ranks."""
    if args.max_length is not None:
        raise UserError("max_length must be null: truncation would cut image tokens or the end of a verdict")
    spec = load_spec(data)
    model = load_model(model_args.model_name_or_path, model_args.dtype, model_args.attn_implementation)
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=for_training(load_rows(data / "train.parquet", spec), spec, completions=True),
        eval_dataset=for_training(load_rows(data / "validation.parquet", spec), spec, completions=True),
        processing_class=load_processor(model_args.model_name_or_path, spec),
        peft_config=get_peft_config(model_args),
        callbacks=[SpecBesideCheckpoints(spec)],
    )
    # Qwen3-VL says that its forward takes no loss arguments, so the Trainer would weight micro-batches, not tokens, alike.
    # TRL's loss takes the number of items and needs nothing of the model's.
    trainer.model_accepts_loss_kwargs = True
    count = trained_parameters(trainer.model)
    print(
        f"attention: {model.config._attn_implementation}; training {count:,} of {model.num_parameters():,} parameters"
    )
    return trainer


def train(args: SFTConfig, model_args: ModelConfig, data: Path) -> None:
    """Trains from the last whole checkpoint or from the start, then merges and verifies."""
    output = Path(args.output_dir)
    trainer = make_trainer(args, model_args, data)
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(output))
    trainer.save_state()
    trainer.save_model(str(output / "adapter"))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        save_spec(load_spec(data), output / "adapter")
        merge(model_args.model_name_or_path, [output / "adapter"], load_spec(data), output / "merged")
