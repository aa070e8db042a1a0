"""Any ShareGPT or ms-swift style file: `messages` or `conversations` with `images`, as JSON lines or one JSON array.

A verdict with an `edit_region` key is read as one with boxes, one without as the editor's unknown (null).
"""

from __future__ import annotations

from collections.abc import Iterator

from data.readers.chat import chat_rows, conversation
from data.readers.raw import Raw
from data.recipe import Source


def rows(source: Source) -> Iterator[Raw]:
    """The rows of the file. Raises UserError where it cannot be read."""
    yield from chat_rows(source, regions_known=lambda row: '"edit_region' in (conversation(row)[1] or ""))
