"""Pages of sampled completions with their images, written while stage 2 runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from spatial_edit_reward.pages import Card, render_page
from spatial_edit_reward.parser import completion_text

if TYPE_CHECKING:
    from grpo.train import LoggingGRPOTrainer

CARDS = 8


class SamplePages(TrainerCallback):
    """Writes `samples/step-N.html` with the first completions of the newest rollout, as often as metrics are logged."""

    def __init__(self, trainer: LoggingGRPOTrainer) -> None:
        self.trainer = trainer

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not self.trainer.rollout:
            return
        cards = [
            Card.from_row(
                row,
                row["images"],
                completion_text(completion),
                "",
                dict(zip(self.trainer.reward_func_names, values, strict=True)),
            )
            for row, completion, values in self.trainer.rollout[:CARDS]
        ]
        file = Path(args.output_dir) / "samples" / f"step-{state.global_step:05d}.html"
        render_page("samples.html.j2", file, title=f"Rollout at step {state.global_step}", shown=cards)
