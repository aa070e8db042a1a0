"""The rows of a benchmark, from the Hub or from a local copy (Parquet, Arrow or JSON-lines files in a folder, or one).

Pictures stay encoded until they are asked for: a row without them is small, and a benchmark of gigabytes is never in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute
from datasets import Dataset, Image, load_dataset

from data.readers.columns import holds_images
from spatial_edit_reward.errors import UserError

Picture = bytes | Path
LOADERS = {".parquet": "parquet", ".arrow": "arrow", ".jsonl": "json"}


@dataclass(frozen=True)
class Table:
    """`plain`: the rows without pictures, the number of them for each list of pictures; `value(i, column)`: one cell."""

    name: str
    plain: list[dict[str, Any]]
    value: Callable[[int, str], Any]
    folder: Path | None

    def pictures(self, place: int, column: str) -> list[Picture | None]:
        """The pictures in an image column of row `place`, encoded; None for one that the row does not hold."""
        value = self.value(place, column)
        return [self._picture(one) for one in (value if isinstance(value, list) else [value])]

    def _picture(self, value: Any) -> Picture | None:
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str):
            return (self.folder or Path()) / value
        return value if isinstance(value, bytes) else None


def load_table(source: str | None, hub: str, config: str | None, split: str, columns: Sequence[str]) -> Table:
    """The rows of `split`: of the Hub dataset `hub` where `source` is None, else of the local copy `source`.

    In a local copy the split's files are those with its name in their path, all files where none has it. Raises UserError
    where there is nothing to read, or a column of `columns` is missing.
    """
    if source is None:
        try:
            return _of_dataset(f"{hub} ({split})", load_dataset(hub, config, split=split), None, columns)
        except UserError:
            raise
        except Exception as error:  # datasets raises many kinds
            said = " ".join(str(error).split())[:200]
            raise UserError(f"{hub}: cannot be loaded: {said}; DATA=FOLDER takes a local copy") from None
    path = Path(source)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder of benchmark rows")
    every = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in LOADERS)
    files = [file for file in every if split in str(file.relative_to(path))] or every
    if not files:
        raise UserError(f"{path}: no Parquet, Arrow or JSON-lines file in it")
    folder = path.parent if path.is_file() else path
    kinds = {file.suffix for file in files}
    if len(kinds) > 1:
        raise UserError(f"{path}: files of more than one kind: {', '.join(sorted(kinds))}")
    kind = kinds.pop()
    if kind == ".jsonl":
        return _of_lines(files, folder, columns)
    try:
        rows = load_dataset(LOADERS[kind], data_files=[str(file) for file in files], split="train")
    except Exception as error:  # datasets raises many kinds
        raise UserError(f"{files[0]}: cannot be read: {' '.join(str(error).split())[:200]}") from None
    return _of_dataset(str(path), rows, folder, columns)


def _check(name: str, there: Sequence[str], columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in there]
    if missing:
        raise UserError(f"{name}: no column {missing[0]!r}; expected {', '.join(columns)}, found {', '.join(there)}")


def _of_dataset(name: str, rows: Dataset, folder: Path | None, columns: Sequence[str]) -> Table:
    _check(name, rows.column_names, columns)
    images = [column for column, kind in rows.features.items() if holds_images(kind)]
    plain = list(rows.remove_columns(images))
    for column in images:
        if not isinstance(rows.features[column], Image):
            lengths = pyarrow.compute.list_value_length(rows.data.column(column)).to_pylist()
            for row, length in zip(plain, lengths, strict=True):
                row[column] = length or 0
    arrow = rows.with_format("arrow")  # as stored: nothing is decoded, and nothing else of the row is read
    return Table(name, plain, lambda place, column: arrow[place].column(column)[0].as_py(), folder)


def _of_lines(files: Sequence[Path], folder: Path, columns: Sequence[str]) -> Table:
    rows: list[dict[str, Any]] = []
    for file in files:
        rows += read_json_lines(file)
    for row in rows:
        _check(str(folder), list(row), columns)
    lists = [
        {**row, **{name: len(row[name]) for name in columns if isinstance(row[name], list) and name.endswith("images")}}
        for row in rows
    ]
    return Table(str(folder), lists, lambda place, column: rows[place][column], folder)


def read_json_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, blank lines skipped. Raises UserError naming the first line that holds none."""
    rows = []
    try:
        lines = file.read_text().split("\n")  # not splitlines: JSON strings may hold other line ends
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{file}, line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{file}, line {number}: expected a JSON object")
        rows.append(row)
    return rows
