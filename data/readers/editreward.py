"""EditReward-Data: two edits of one source with human scores, no rationale and no boxes: references for stage 2 alone.

Each public row becomes four: `sc` and `pq` of the left and of the right edit. People gave one number for following the
instruction (which takes in that nothing else was changed) and one for quality and aesthetics, so both scores of `sc` are the
first, both of `pq` the second, rescaled from the recipe's `score_range`. Which edit was preferred stays readable: the four
rows share their `group`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data.cleaning.fixer import RowError
from data.readers.chat import image_finder, read_images
from data.readers.columns import streamed
from data.readers.raw import Raw, read_rows, text_at
from data.recipe import Source
from spatial_edit_reward import Task

HAS_PROMPTS = False
USABLE_FOR_SFT = False
SCORES: tuple[tuple[Task, str], ...] = (("sc", "instruction_following"), ("pq", "quality_aesthetic"))


def rows(source: Source) -> Iterator[Raw]:
    """Four rows for every public one. Raises UserError where the dataset cannot be loaded."""
    find = image_finder(source)

    def four_rows() -> Iterator[tuple[str, str, Any]]:
        for location, number, row in streamed(source):
            if isinstance(row, RowError):
                yield location, number, row
                continue
            for side in ("left", "right"):
                for task, score in SCORES:
                    yield location, f"{number}-{side}-{task}", (number, row, task, side, f"{side}_{score}_score")

    def read(content: Any) -> Raw:
        number, row, task, side, score = content
        images = [f"{side}_output_image"] if task == "pq" else ["source_img", f"{side}_output_image"]
        for name in (*images, score):
            if row.get(name) is None:
                raise RowError("not_a_row", f"it has no {name}")
        return Raw(
            images=read_images({"images": [row[name] for name in images]}, find),
            task=task,
            instruction=text_at(row, "instruction"),
            score=(row[score], row[score]),
            group=number,
            regions_known=False,
        )

    return read_rows(four_rows(), read)
