"""EditScore-Reward-Data: `reward.json`, ShareGPT, scores and rationale but no boxes.

An `sc` row's `edit_region` is therefore null (unknown), never [] (nothing was edited): usable for `score_agreement`, not for
`box_iou`, and not for stage 1, where it would teach verdicts without regions. Its `pq` rows are complete.
"""

from __future__ import annotations

from collections.abc import Iterator

from data.readers.chat import chat_rows
from data.readers.raw import Raw
from data.recipe import Source


def rows(source: Source) -> Iterator[Raw]:
    """The rows of `reward.json`. Raises UserError where it cannot be read."""
    return chat_rows(source, regions_known=lambda answer: False)
