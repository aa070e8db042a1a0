"""A trainer run to its planned end: from the last complete checkpoint, and never with fewer steps than planned."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.checkpoints import last_checkpoint
from pipeline.distributed import on_main_process
from spatial_edit_reward.errors import UserError

Collator = Callable[[list[dict[str, Any]]], Any]


def train_to_end(trainer: Any, output: Path) -> None:
    """Trains from the last complete checkpoint in `output`, or from the start, and saves the trainer's state.

    Raises UserError where it made fewer steps than planned: a data loader that runs out ends an epoch, whatever the reason.
    """
    checkpoint = on_main_process(lambda: last_checkpoint(output, trainer.args.world_size))
    trainer.data_collator = partial(collate, trainer.data_collator)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except UserError as error:  # of a worker that loads rows: torch puts its traceback in front
        raise UserError(str(error).strip().rsplit("UserError: ", 1)[-1]) from None
    steps, planned = trainer.state.global_step, trainer.state.max_steps
    if steps < planned:
        raise UserError(
            f"{output}: training ended at step {steps} of {planned}, so nothing is merged: see the warnings above; the same "
            "command goes on from the last checkpoint"
        )
    trainer.save_state()


def collate(collator: Collator, rows: list[dict[str, Any]]) -> Any:
    """What `collator` makes of `rows`. Raises UserError naming the row that has not one image for every image token.

    The processor raises StopIteration there, which a data loader takes for the end of the rows.
    """
    try:
        return collator([dict(row) for row in rows])
    except StopIteration:
        lacking = [row.get("id") for row in rows if _lacks_images(collator, row)]
        raise UserError(
            f"row {lacking[0] if lacking else rows[0].get('id')!r}: its text holds more image tokens than it has images"
        ) from None


def _lacks_images(collator: Collator, row: dict[str, Any]) -> bool:
    try:
        collator([dict(row)])
    except StopIteration:
        return True
    return False
