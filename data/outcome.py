"""What ends the stage once rows were read: a source or a split without a row, boxes or prompts of another kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from data.cleaning.box_format import ENOUGH, BoxCounts
from data.cleaning.fixer import KINDS
from data.cleaning.prepare import RowRecord
from data.recipe import SPLITS
from data.sources import RowSource
from data.templates import NEEDED
from spatial_edit_reward import TASKS
from spatial_edit_reward.errors import UserError

# Reasons that the recipe chooses, or that only the other sources decide.
CHOSEN = {"joined", "no_verdict", "other_split", "not_for_sft", "subsampled", "benchmark_overlap"}


def main_reason(records: Sequence[RowRecord]) -> str:
    """The most frequent reason why rows were dropped, with its number, what it means and the first such row."""
    errors = [(row.location, row.error) for row in records if row.error]
    kind, count = Counter(error.kind for _, error in errors).most_common(1)[0]
    location, detail = next((location, error.detail) for location, error in errors if error.kind == kind)
    return f"{count} of {len(records)} were dropped as {kind} ({KINDS[kind].meaning}), e.g. {location}: {detail}"


def lost(records: Sequence[RowRecord], final: bool = True) -> bool:
    """Whether nothing is left of a source. Until all sources are read, a row without an answer may still be joined to one."""
    pending = "joined" if final else "no_verdict"
    return not any(row.error is None or (row.error.kind == pending and row.image_hashes) for row in records)


def check_source(name: str, records: Sequence[RowRecord], final: bool, max_dropped: float) -> None:
    """Raises UserError where nothing is left of the source `name`, or too little of all its rows or of those of one task.

    `max_dropped`: the share of its rows that may be dropped for an error; a task may not lose all of ENOUGH rows either.
    """
    if not records:
        raise UserError(f"source {name!r}: no row was kept: it holds none")
    if lost(records, final):
        raise UserError(f"source {name!r}: no row was kept: {main_reason(records)}")
    if max_dropped == 1:
        return
    for task, most in ((None, max_dropped), *((task, 1.0) for task in TASKS)):
        rows = [row for row in records if task in (None, row.task)]
        wrong = [row for row in rows if row.error and row.error.kind not in CHOSEN]
        if len(rows) >= ENOUGH and len(wrong) >= most * len(rows):
            kind = f"{task} rows" if task else "rows"
            reason = f"{len(wrong)} of {len(rows)} {kind} were dropped, too many to go on (`max_dropped`): {main_reason(wrong)}"
            raise UserError(f"source {name!r}: {reason}")


def check_boxes(name: str, boxes: BoxCounts | None) -> None:
    """Raises UserError where the boxes of the source `name` are of another format than it declares."""
    if boxes and boxes.problem and boxes.counts["boxes"] >= ENOUGH:
        raise UserError(f"source {name!r}: {boxes.problem}")


def check_splits(records: Sequence[RowRecord], sources: Sequence[RowSource]) -> None:
    """Raises UserError for a split that a source names and no row fell to."""
    filled = {row.split for row in records if row.error is None}
    for split in SPLITS:
        owners = [source.name for source in sources if split in source.splits]
        if owners and split not in filled:
            dropped = [row for row in records if row.error and row.error.detail.endswith(f" {split}")]
            reason = main_reason(dropped) if dropped else f"its share in `splits` of {', '.join(owners)} is too small"
            raise UserError(f"no row is in {split}: {reason}; give it a larger share, or leave it out of `splits`")


def check_prompts(report: Mapping[str, Any]) -> None:
    """Raises UserError where the template of `prompt_from` explains fewer of its source's rows than it must."""
    source = report["prompt_from"]
    for task, prompt in report["prompts"].get(source, {}).items():
        rows = prompt["explained"] + prompt["not_explained"]
        if prompt["explained"] < NEEDED * rows:
            raise UserError(
                f"prompt_from: the {task} template of {source!r} explains {prompt['explained']} of {rows} rows, fewer than "
                f"{NEEDED:.0%}"
            )
