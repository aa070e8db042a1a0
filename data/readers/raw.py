"""A row as a public file gives it, the files that hold such rows, and where their images are.

A reader is a module of this folder with a function `rows(source)` and a line in `data/readers/__init__.py`. `rows` yields a Raw
for each public row, in the file's order, the same ones each time it is called. It judges nothing: a row that it cannot read is
a Raw with an `error`, and only a file that cannot be read at all is a UserError. The smallest one reads a list of
{"before", "after", "instruction", "stars"} with scores and nothing else:

    HAS_PROMPTS = False  # no prompt is in its rows, so none is recovered; stated only where it is so
    USABLE_FOR_SFT = False  # no verdict in words to imitate, only scores for stage 2; stated only where it is so

    def rows(source: Source) -> Iterator[Raw]:
        find = image_folder(source.images or Path(source.path).parent)

        def read(content: Any) -> Raw:
            images = find(content["before"]), find(content["after"])
            stars = content["stars"], content["stars"]  # rescaled from the recipe's score_range
            return Raw(images=images, task="sc", instruction=content["instruction"], score=stars, regions_known=False)

        return read_rows(read_json(Path(source.path)), read)

Of the row {"before": "a.png", "after": "b.png", "instruction": "Add a cup.", "stars": 4} this makes

    Raw(images=(Path("/data/a.png"), Path("/data/b.png")), task="sc", instruction="Add a cup.", score=(4, 4),
        regions_known=False, location="/data/rows.jsonl, line 1", id="0")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.cleaning.fixer import RowError
from data.readers.parts import Slice
from spatial_edit_reward import Task

ImageSource = Path | Slice | bytes


@dataclass(frozen=True)
class Raw:
    """What one public row says, unjudged.

    Args:
        images: The source first; a `pq` row has the edited image alone.
        task: What it says of itself; None where it does not.
        prompt: What the model is asked in it, without placeholders of images.
        verdict: The text of its answer, if that is a verdict.
        score: Two numbers, if there is no verdict.
        group: Shared by the candidates of one source and instruction.
        regions_known: False for verdicts that have no boxes whatever was edited.
        error: Why the row cannot be read at all.
        location: Where it stands, for messages; `id`: its own, or its number. Both are set by `read_rows`.
    """

    images: tuple[ImageSource, ...] = ()
    task: Task | None = None
    prompt: str | None = None
    instruction: str | None = None
    verdict: str | None = None
    score: tuple[Any, ...] | None = None
    group: str | None = None
    regions_known: bool = True
    error: RowError | None = None
    location: str = ""
    id: str = ""


def read_rows(contents: Iterable[tuple[str, str, Any]], read: Callable[[Any], Raw]) -> Iterator[Raw]:
    """`read` on each of `contents`, (location, id, content); an id that `read` gives goes first.

    A RowError becomes a Raw with it, and so does a key that is not there, or a content that has none.
    """
    for location, row_id, content in contents:
        try:
            if isinstance(content, RowError):
                raise content
            raw = read(content)
        except RowError as error:
            raw = Raw(error=error)
        except (AttributeError, KeyError, TypeError) as error:
            raw = Raw(error=RowError("not_a_row", f"{type(error).__name__}: {error}"))
        yield replace(raw, location=location, id=raw.id or row_id)


def text_at(row: Any, key: str) -> str | None:
    """The text or number at `key` of a mapping as text, None where there is none. Raises RowError for anything else."""
    value = row.get(key)
    if value is not None and not isinstance(value, str | int):
        raise RowError("not_a_row", f"{key} is {type(value).__name__}")
    return None if value in (None, "") else str(value)


def image_folder(root: Path) -> Callable[[str], Path]:
    """What turns a row's path, relative to `root`, into a file. It raises RowError for a path that leaves the folder."""
    folder = os.path.abspath(root)

    def find(path: str) -> Path:
        full = os.path.normpath(os.path.join(folder, path))
        if "\0" in path or not full.startswith(folder + os.sep):
            raise RowError("image_outside", f"{path!r} leaves {root}")
        return Path(full)

    return find
