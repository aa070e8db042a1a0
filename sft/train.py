"""One run of stage 1: rows in, adapter and merged weights out."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config

from data.rows import for_training, load_rows
from export.merge import merge
from pipeline.distributed import engine_name, free_memory_and_shutdown, init_deepspeed, num_parameters
from pipeline.model import Inputs, SpecBesideCheckpoints, quantization, save_trained, trained_parameters
from pipeline.random_weights import random_inputs, time_steps
from pipeline.training import train_to_end
from spatial_edit_reward import load_spec
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.model import load_model, load_processor


def make_trainer(args: SFTConfig, model_args: ModelConfig, data: Path) -> SFTTrainer:
    """The trainer of the base on the data stage's rows, ready to run. Raises UserError where one of them does not fit."""
    if args.max_length is not None:
        raise UserError("max_length must be null: truncation would cut image tokens or the end of a verdict")
    spec = load_spec(data)
    init_deepspeed(args)
    name = model_args.model_name_or_path
    model = load_model(name, model_args.dtype, model_args.attn_implementation, quantization(model_args))
    rows, held_back = (
        for_training(load_rows(data / f"{split}.parquet", spec), spec, completions=True)
        for split in ("train", "validation")
    )
    return build_trainer(args, model_args, Inputs(model, load_processor(name, spec), spec, rows), held_back)


def build_trainer(
    args: SFTConfig, model_args: ModelConfig, inputs: Inputs, validation: Dataset | None = None
) -> SFTTrainer:
    """TRL's trainer on what is loaded: loss on completions only, every token weighted alike over accumulation and ranks."""
    model = inputs.model
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=inputs.rows,
        eval_dataset=validation,
        processing_class=inputs.processor,
        peft_config=get_peft_config(model_args),
        callbacks=[SpecBesideCheckpoints(inputs.spec)],
    )
    # Qwen3-VL says that its forward takes no loss arguments, so the Trainer would weight micro-batches, not tokens, alike.
    # TRL's loss takes the number of items and needs nothing of the model's.
    trainer.model_accepts_loss_kwargs = True
    count = trained_parameters(trainer.model)
    trainer.accelerator.print(
        f"engine: {engine_name(trainer)}; attention: {model.config._attn_implementation}; "
        f"training {count:,} of {num_parameters(model):,} parameters"
    )
    return trainer


def train(args: SFTConfig, model_args: ModelConfig, data: Path) -> None:
    """Trains from the last complete checkpoint or from the start, then merges and verifies."""
    output = Path(args.output_dir)
    trainer = make_trainer(args, model_args, data)
    train_to_end(trainer, output)
    spec = load_spec(data)
    saved = save_trained(trainer, output, spec)
    free_memory_and_shutdown(trainer)  # the verification of the merge loads the model on the same GPU
    if args.process_index == 0:
        adapters, checkpoint = ([saved], None) if model_args.use_peft else ([], saved)
        merge(model_args.model_name_or_path, adapters, spec, output / "merged", checkpoint)


def check(args: SFTConfig, model_args: ModelConfig, recipe: Path) -> None:
    """Times `args.max_steps` steps at the sizes of `recipe`, on random weights and rows."""
    init_deepspeed(args)
    inputs = random_inputs(recipe, model_args, quantization(model_args), args.seed, completions=True)
    time_steps(build_trainer(args, model_args, inputs), recipe)
