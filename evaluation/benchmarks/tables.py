"""The rows of a benchmark, from the Hub or from a local copy (Parquet, Arrow or JSON-lines files in a folder, or one).

Images stay encoded until they are needed: a row without them is small, and a benchmark of gigabytes is never in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.requests import EncodedImage
from spatial_edit_reward.errors import UserError, one_line

LOADERS = {".parquet": "parquet", ".arrow": "arrow", ".jsonl": "json"}


@dataclass(frozen=True)
class Table:
    """`rows`: without images, their number in the place of a list of them; `cell(index, column)`: one cell as stored."""

    name: str
    rows: list[dict[str, Any]]
    cell: Callable[[int, str], Any]
    folder: Path | None

    def images(self, index: int, column: str) -> list[EncodedImage | None]:
        """The images in an image column of row `index`, encoded; None for one that the row does not hold."""
        value = self.cell(index, column)
        return [self._encoded(image) for image in (value if isinstance(value, list) else [value])]

    def image(self, index: int, column: str, number: int = 0) -> EncodedImage | None:
        """The image `number` of those; None where there is none."""
        images = self.images(index, column)
        return images[number] if number < len(images) else None

    def _encoded(self, value: Any) -> EncodedImage | None:
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str):
            return (self.folder or Path()) / value
        return value if isinstance(value, bytes) else None


def load_tables(
    source: str | None, hub: str, splits: Sequence[str], columns: Sequence[str], config: str | None = None
) -> list[Table]:
    """The rows of `splits`, a table each: of the Hub dataset `hub` where `source` is None, else of the local copy `source`.

    In a local copy a split's files are those with its name in their path; where no split has any, all files are one table.
    Raises UserError where there is nothing to read, or a column of `columns` is missing.
    """
    if source is None:
        return [_load(f"{hub} ({split})", None, columns, hub, config, split=split) for split in splits]
    path = Path(source)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder of benchmark rows")
    folder = path.parent if path.is_file() else path
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in LOADERS)
    if not files:
        raise UserError(f"{path}: no Parquet, Arrow or JSON-lines file in it")
    by_split = [[file for file in files if split in str(file.relative_to(path))] for split in splits]
    return [_read_files(path, folder, part, columns) for part in by_split if part] or [
        _read_files(path, folder, files, columns)
    ]


def _read_files(path: Path, folder: Path, files: Sequence[Path], columns: Sequence[str]) -> Table:
    kinds = sorted({file.suffix for file in files})
    if len(kinds) > 1:
        raise UserError(f"{path}: files of more than one kind: {', '.join(kinds)}")
    if kinds == [".jsonl"]:
        return _table_of_lines(files, folder, columns)
    return _load(str(path), folder, columns, LOADERS[kinds[0]], data_files=[str(file) for file in files], split="train")


def _load(name: str, folder: Path | None, columns: Sequence[str], *arguments: Any, **options: Any) -> Table:
    import pyarrow.compute  # seconds to import, with datasets
    from datasets import Image, List, load_dataset

    try:
        rows = load_dataset(*arguments, **options)
    except Exception as error:  # datasets raises many kinds
        hint = "" if folder else "; DATA=FOLDER takes a local copy, and a gated dataset needs `hf auth login`"
        raise UserError(f"{name}: cannot be loaded: {one_line(error)}{hint}") from None
    _check(name, rows.column_names, columns)
    images = {
        column: kind for column, kind in rows.features.items() if isinstance(getattr(kind, "feature", kind), Image)
    }
    plain = list(rows.remove_columns(list(images)))
    for column, kind in images.items():
        if isinstance(kind, List):
            lengths = pyarrow.compute.list_value_length(rows.data.column(column)).to_pylist()
            for row, length in zip(plain, lengths, strict=True):
                row[column] = length or 0
    arrow = rows.with_format("arrow")  # as stored: nothing is decoded, and nothing else of the row is read
    return Table(name, plain, lambda index, column: arrow[index].column(column)[0].as_py(), folder)


def _check(name: str, present: Sequence[str], columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in present]
    if missing:
        raise UserError(f"{name}: no column {missing[0]!r}; expected {', '.join(columns)}, found {', '.join(present)}")


def _table_of_lines(files: Sequence[Path], folder: Path, columns: Sequence[str]) -> Table:
    rows = [row for file in files for row in read_json_lines(file)]
    for row in rows:
        _check(str(folder), list(row), columns)
    lists = [
        {**row, **{name: len(row[name]) for name in columns if isinstance(row[name], list) and name.endswith("images")}}
        for row in rows
    ]
    return Table(str(folder), lists, lambda index, column: rows[index][column], folder)


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
