"""Rows in a JSON file, one at a time: an array or JSON lines, of any size. What is wrong with a row is that row's error."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from data.cleaning.fixer import RowError
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.images import name_format

BLOCK = 2**20
MAX_ROW = 2**28  # bytes of one row of an array: more is an array whose brackets do not close
# What divides an array: strings, whose last group is empty where they go on, brackets and commas.
TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("?)|[][{},]', re.DOTALL)


def read_json(file: Path) -> Iterator[tuple[str, str, Any]]:
    """(location, number, content) of each row of `file`, a JSON array or JSON lines; one that is no JSON gives a RowError.

    Holds one row at a time. Raises UserError for a missing file, one of another form, and one that breaks off.
    """
    try:
        with file.open("rb") as opened:
            start = opened.read(1024)
            if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise UserError(f"{file}: its text is UTF-16: save it as UTF-8")
            if start and (kind := name_format(start)):
                raise UserError(f"{file}: not JSON but {kind}")
            mark = len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0
            opened.seek(mark)
            first = next((byte for byte in iter(lambda: opened.read(1), b"") if not byte.isspace()), b"")
            if first == b"[":
                yield from _array(file, opened)
                return
            opened.seek(mark)
            check_lines(file, opened)
            opened.seek(mark)
            yield from _lines(file, opened)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None


def parse_row(text: bytes) -> Any:
    """The content of a row, a RowError where it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return RowError("not_json", " ".join(str(error).split())[:120])


def check_lines(file: Path, opened: BinaryIO) -> None:
    """Raises UserError where the first object goes over several lines: each of them would be an error of its own."""
    lines = (line.strip() for line in opened)
    lines = (line for line in lines if line)
    first, second = next(lines, b""), next(lines, b"")
    if first[:1] == b"{" and second[:1] not in (b"", b"{") and isinstance(parse_row(first), RowError):
        raise UserError(
            f"{file}: neither a JSON array nor JSON lines: its first object goes over several lines "
            f"(`jq -c . {file.name} > rows.jsonl` puts each on one)"
        )


def _lines(file: Path, opened: BinaryIO) -> Iterator[tuple[str, str, Any]]:
    for number, line in enumerate(opened):
        if line.strip():
            content = parse_row(line)
            if isinstance(content, RowError) and not line.endswith((b"\n", b"}")):
                raise UserError(f"{file}: it breaks off in line {number + 1}: download it again")
            yield f"{file}, line {number + 1}", str(number), content


def _array(file: Path, opened: BinaryIO) -> Iterator[tuple[str, str, Any]]:
    """The rows of an array whose first bracket is read."""
    for number, text in enumerate(elements(opened)):
        if text is None:
            raise UserError(f"{file}: the JSON array breaks off after row {number}, or something follows its end")
        yield f"{file}, row {number + 1}", str(number), parse_row(text)


def elements(opened: BinaryIO) -> Iterator[bytes | None]:
    """The text of each element of an array after its first bracket; a last None where it does not end as an array does.

    An element of more than MAX_ROW bytes is none: what follows an open bracket or string would be read to the file's end.
    """
    buffer, depth, done, start = b"", 1, 0, 0  # `done`: up to where brackets are counted; `start`: of the element
    while block := opened.read(BLOCK):
        buffer, done, start = buffer[start:] + block, done - start, 0
        for token in TOKEN.finditer(buffer, done):
            if token[1] == b"":
                done = token.start()
                break
            done = token.end()
            depth += (token[0] in b"{[") - (token[0] in b"}]")
            if depth == 0 or (depth == 1 and token[0] == b","):
                element = buffer[start : token.start()]
                if element.strip() or depth:
                    yield element
                start = done
            if depth == 0:
                rest = buffer[done:].strip() or any(block.strip() for block in iter(lambda: opened.read(BLOCK), b""))
                if rest:
                    yield None
                return
        if len(buffer) - start > MAX_ROW:
            break
    yield None
