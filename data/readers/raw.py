"""A row as a public file gives it, and the two ways in which such files hold their rows: JSON lines and one JSON array."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from data.cleaning.fixer import RowError
from data.readers.parts import Slice
from spatial_edit_reward import Task
from spatial_edit_reward.errors import UserError

Picture = Path | Slice | bytes


@dataclass(frozen=True)
class Raw:
    """What one public row says, unjudged.

    `place`: where it stands, for messages; `id`: its own, or its number. `task`: what it says of itself, None where it does
    not. Its answer is either `verdict`, the text of one, or `score`, two numbers without words. `fault`: why it cannot be
    read at all. `regions_known` is False for layouts whose verdicts have no boxes.
    """

    place: str
    id: str
    images: tuple[Picture, ...] = ()
    task: Task | None = None
    prompt: str | None = None
    instruction: str | None = None
    verdict: str | None = None
    score: tuple[Any, ...] | None = None
    group: str | None = None
    regions_known: bool = True
    fault: RowError | None = None


def read_json(file: Path) -> Iterator[tuple[str, int, Any]]:
    """(place, number, content) of each row of `file`, a JSON array or JSON lines; a line that is no JSON gives a RowError.

    Holds one row at a time. Raises UserError for a missing file and for an array that breaks off.
    """
    try:
        with file.open("rb") as opened:
            start = next((byte for byte in iter(lambda: opened.read(1), b"") if not byte.isspace()), b"")
            opened.seek(0)
            yield from _array(file, opened) if start == b"[" else _lines(file, opened)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None


def _lines(file: Path, opened: BinaryIO) -> Iterator[tuple[str, int, Any]]:
    for number, line in enumerate(opened):
        place = f"{file}:{number + 1}"
        if not line.strip():
            continue
        try:
            yield place, number, json.loads(line)
        except (ValueError, RecursionError) as error:
            yield place, number, RowError("not_json", " ".join(str(error).split())[:120])


def _array(file: Path, opened: BinaryIO) -> Iterator[tuple[str, int, Any]]:
    number = 0
    try:
        for content in ijson.items(opened, "item", use_float=True):
            yield f"{file}[{number}]", number, content
            number += 1
    except ijson.JSONError as error:
        raise UserError(
            f"{file}: the JSON array breaks off after row {number - 1}: {str(error).split(chr(10))[0]}"
        ) from None
