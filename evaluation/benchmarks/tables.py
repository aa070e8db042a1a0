"""The rows of a benchmark, from the Hub or from a local copy (Parquet, Arrow or JSON-lines files in a folder, or one).

Images stay encoded until they are needed: a row without them is small, and a benchmark of gigabytes is never in memory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.cleaning.fixer import RowError
from data.readers.parts import check_shards
from data.readers.raw import image_folder
from evaluation.requests import EncodedImage
from spatial_edit_reward.errors import UserError, one_line
from spatial_edit_reward.images import ImageError

if TYPE_CHECKING:
    from datasets import Dataset

LOADERS = {".parquet": "parquet", ".arrow": "arrow", ".jsonl": "json"}


@dataclass(frozen=True)
class Table:
    """`rows`: without images, their number in the place of a list of them; `stored`: everything, nothing decoded."""

    name: str
    rows: list[dict[str, Any]]
    stored: Dataset
    folder: Path | None

    def images(self, index: int, column: str) -> list[EncodedImage | None]:
        """The images in an image column of row `index`, encoded; None for one that the row does not hold.

        Raises ImageError for a path that leaves the local copy.
        """
        return [self._encoded(value) for value in self._values(index, column)]

    def image(self, index: int, column: str, number: int = 0) -> EncodedImage | None:
        """The image `number` of those; None where there is none."""
        values = self._values(index, column)
        return self._encoded(values[number]) if number < len(values) else None

    def _values(self, index: int, column: str) -> list[Any]:
        value = self.stored[index].column(column)[0].as_py()
        return value if isinstance(value, list) else [value]

    def _encoded(self, value: Any) -> EncodedImage | None:
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if not isinstance(value, str):
            return value if isinstance(value, bytes) else None
        if self.folder is None:  # where `datasets` itself has put it
            return Path(value)
        try:
            return image_folder(self.folder)(value)
        except RowError as error:
            raise ImageError(error.kind, error.detail) from None


def load_tables(
    source: str | None, hub: str, splits: Sequence[str], columns: Sequence[str], config: str | None = None
) -> list[Table]:
    """The rows of `splits`, a table each: of the Hub dataset `hub` where `source` is None, else of the local copy `source`.

    In a local copy a split's files are those with its name in their path; where no split has any, all files are one table.
    Raises UserError where there is nothing to read, a split, a shard or a column of `columns` is missing.
    """
    if source is None:
        return [_load(f"{hub} ({split})", None, columns, hub, config, split=split) for split in splits]
    path = Path(source)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder of benchmark rows")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in LOADERS)
    if not files:
        raise UserError(f"{path}: no Parquet, Arrow or JSON-lines file in it")
    by_split = {split: [file for file in files if split in str(file.relative_to(path))] for split in splits}
    if not any(by_split.values()):
        by_split = {"all": files}
    missing = [split for split, part in by_split.items() if not part]
    if missing:
        raise UserError(
            f"{path}: no file of {', '.join(missing)} in it: download it too, or name the one file to be read"
        )
    for part in by_split.values():
        check_shards(part)
    return [_read_files(path, part, columns) for part in by_split.values()]


def _read_files(path: Path, files: Sequence[Path], columns: Sequence[str]) -> Table:
    kinds, folder = sorted({file.suffix for file in files}), path.parent if path.is_file() else path
    if len(kinds) > 1:
        raise UserError(f"{path}: files of more than one kind: {', '.join(kinds)}")
    if kinds != [".jsonl"]:
        names = [str(file) for file in files]
        return _load(str(path), folder, columns, LOADERS[kinds[0]], data_files=names, split="train")
    from datasets import Dataset

    rows = Dataset.from_list([row for file in files for row in read_json_lines(file)])
    table = _table(str(path), folder, columns, rows)
    for row in table.rows:
        row |= {name: len(row[name]) for name in columns if isinstance(row[name], list) and name.endswith("images")}
    return table


def _load(name: str, folder: Path | None, columns: Sequence[str], *arguments: Any, **options: Any) -> Table:
    from datasets import load_dataset  # seconds to import

    try:
        return _table(name, folder, columns, load_dataset(*arguments, **options))
    except UserError:
        raise
    except Exception as error:  # datasets raises many kinds
        hint = "" if folder else "; DATA=FOLDER takes a local copy, and a gated dataset needs `hf auth login`"
        raise UserError(f"{name}: cannot be loaded: {one_line(error)}{hint}") from None


def _table(name: str, folder: Path | None, columns: Sequence[str], rows: Dataset) -> Table:
    from datasets import Image, List
    from pyarrow.compute import list_value_length

    missing = [column for column in columns if column not in rows.column_names]
    if missing:
        columns_found = ", ".join(rows.column_names)
        raise UserError(f"{name}: no column {missing[0]!r}; expected {', '.join(columns)}, found {columns_found}")
    images = {
        column: kind for column, kind in rows.features.items() if isinstance(getattr(kind, "feature", kind), Image)
    }
    plain = list(rows.remove_columns(list(images)))
    for column, kind in images.items():
        if isinstance(kind, List):
            lengths = list_value_length(rows.data.column(column)).to_pylist()
            for row, length in zip(plain, lengths, strict=True):
                row[column] = length or 0
    return Table(name, plain, rows.with_format("arrow"), folder)


def read_json_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, blank lines skipped. Raises UserError naming the first line that holds none."""
    rows = []
    try:
        lines = file.read_text(encoding="utf-8-sig").split(
            "\n"
        )  # not splitlines: JSON strings may hold other line ends
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}, line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{file}, line {number}: expected a JSON object")
        rows.append(row)
    return rows
