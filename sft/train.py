"""One run of stage 1: rows in, adapter and merged weights out."""

from __future__ import annotations

from pathlib import Path

from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config

from data.rows import for_training, load_rows
from export.merge import merge
from pipeline.checkpoints import SpecBesideCheckpoints, last_whole_checkpoint, save_trained
from pipeline.distributed import engine_of, free_memory_and_shutdown, on_main_process, parameters, start_engine
from pipeline.model import quantization, trained_parameters
from spatial_edit_reward import load_spec
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.model import load_model, load_processor


def make_trainer(args: SFTConfig, model_args: ModelConfig, data: Path) -> SFTTrainer:
    """The trainer, ready to run: loss on completions only, every token weighted alike over accumulation and ranks."""
    if args.max_length is not None:
        raise UserError("max_length must be null: truncation would cut image tokens or the end of a verdict")
    spec = load_spec(data)
    start_engine(args)
    model = load_model(
        model_args.model_name_or_path, model_args.dtype, model_args.attn_implementation, quantization(model_args)
    )
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
    trainer.accelerator.print(
        f"engine: {engine_of(trainer)}; attention: {model.config._attn_implementation}; "
        f"training {count:,} of {parameters(model):,} parameters"
    )
    return trainer


def train(args: SFTConfig, model_args: ModelConfig, data: Path) -> None:
    """Trains from the last whole checkpoint or from the start, then merges and verifies."""
    output = Path(args.output_dir)
    trainer = make_trainer(args, model_args, data)
    trainer.train(resume_from_checkpoint=on_main_process(lambda: last_whole_checkpoint(output, args.world_size)))
    trainer.save_state()
    spec = load_spec(data)
    saved = save_trained(trainer, output, spec)
    free_memory_and_shutdown(trainer)  # the verification of the merge loads the model on the same GPU
    if args.process_index == 0:
        adapters, checkpoint = ([saved], None) if model_args.use_peft else ([], saved)
        merge(model_args.model_name_or_path, adapters, spec, output / "merged", checkpoint)
