"""Any ShareGPT or ms-swift style file: `messages` or `conversations` with `images`, as JSON lines or one JSON array.

A verdict with an `edit_region` key is read as one with boxes, one without as one whose regions are unknown (null).
"""

from __future__ import annotations

from collections.abc import Iterator

from data.readers.chat import chat_rows
from data.readers.raw import Raw
from data.recipe import Source


def rows(source: Source) -> Iterator[Raw]:
    """The rows of the file. Raises UserError where it cannot be read."""
    return chat_rows(source, regions_known=lambda answer: '"edit_region' in answer)
