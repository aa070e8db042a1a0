"""EditReward-Data: two edits of one source with human scores, no rationale and no boxes: references for stage 2 alone.

Each public row becomes four: `sc` and `pq` of the left and of the right edit. People gave one number for following the
instruction (which takes in that nothing else was changed) and one for quality and aesthetics, so both scores of `sc` are the
first, both of `pq` the second, rescaled from the recipe's `score_range`. Which edit was preferred stays readable: the four
rows share their `group`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.cleaning.fixer import RowError
from data.readers.chat import pictures, text_at
from data.readers.columns import streamed
from data.readers.raw import Raw
from data.recipe import Source
from spatial_edit_reward import Task

SCORES: tuple[tuple[Task, str], ...] = (("sc", "instruction_following"), ("pq", "quality_aesthetic"))


def of_side(row: dict[str, Any], side: str, task: Task, score: str) -> dict[str, Any]:
    """What the `task` row of one edit ("left" or "right") is made of. Raises RowError for a key that is missing."""
    names = [f"{side}_output_image"] if task == "pq" else ["source_img", f"{side}_output_image"]
    names.append(f"{side}_{score}_score")
    missing = [name for name in names if row.get(name) is None]
    if missing:
        raise RowError("not_a_row", f"it has no {missing[0]}")
    return {"images": [row[name] for name in names[:-1]], "score": (row[names[-1]],) * 2}


def rows(source: Source) -> Iterator[Raw]:
    """Four rows for every public one. Raises UserError where the dataset cannot be loaded."""

    def find(path: str) -> Path:
        return (source.images or Path(source.path)) / path

    for number, row in enumerate(streamed(source)):
        for side in ("left", "right"):
            for task, score in SCORES:
                place, identity = f"{source.path}[{number}]", f"{number}-{side}-{task}"
                try:
                    made = of_side(row, side, task, score)
                    yield Raw(
                        place=place,
                        id=identity,
                        images=pictures(made, find),
                        task=task,
                        instruction=text_at(row, "instruction"),
                        score=made["score"],
                        group=str(number),
                        regions_known=False,
                    )
                except RowError as fault:
                    yield Raw(place=place, id=identity, fault=fault)
