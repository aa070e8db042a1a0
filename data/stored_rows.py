"""The rows of a Parquet file where they lie: one row group at a time is in memory, whichever rows are asked for.

Parquet has no way to a single row, so the row groups are small: GROUP_BYTES, or what the data stage prepares at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from spatial_edit_reward.errors import UserError, one_line

# Read for any of its rows: 20 rows of two 380 kB images. With half as many, a file's table of contents takes twice the memory.
GROUP_BYTES = 16_000_000
LARGEST_GROUP = 1_000_000_000  # files of another origin; to read all of that for each row would take days


def rows_per_group(table: pyarrow.Table) -> int:
    """How many rows of `table` make a row group of at most GROUP_BYTES, at least one."""
    return max(1, GROUP_BYTES * len(table) // max(1, table.nbytes))


def open_writer(file: Path, schema: pyarrow.Schema) -> parquet.ParquetWriter:
    """Writes canonical rows as all stages read them: images are compressed already."""
    return parquet.ParquetWriter(file, schema, compression="none", use_dictionary=False)


class StoredRows(Sequence[dict[str, Any]]):
    """Canonical rows, read when they are asked for, images decoded; with `indices` (ascending) some of the file's rows.

    May be handed to other processes: each opens the file for itself. Raises UserError for a file of another kind.
    """

    def __init__(self, file: Path, schema: pyarrow.Schema, indices: Sequence[int] | np.ndarray | None = None) -> None:
        self.file, self.schema = file, schema
        try:
            self._opened, self._process = parquet.ParquetFile(file), os.getpid()
            self._opened.schema_arrow.empty_table().select(schema.names).cast(schema)
        except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
            raise UserError(f"{file}: not a Parquet file of canonical rows: {one_line(error)}") from None
        groups = [self._opened.metadata.row_group(i) for i in range(self._opened.num_row_groups)]
        if any(group.total_byte_size > LARGEST_GROUP for group in groups):
            raise UserError(
                f"{file}: a row group of over 1 GB, which each row would be read from: run 'make data' again"
            )
        self._ends = np.cumsum([group.num_rows for group in groups], dtype=np.int64)
        self.indices = np.arange(self._ends[-1] if groups else 0) if indices is None else np.asarray(indices, np.int64)
        self._group: tuple[int, pyarrow.Table] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredRows, (self.file, self.schema, self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        from datasets import Image

        row = self.encoded(index)
        return {**row, "images": [Image().decode_example(image) for image in row["images"]]}

    def encoded(self, index: int) -> dict[str, Any]:
        """A row whose images are {"bytes", "path"}."""
        row: dict[str, Any] = self.table(index).to_pylist()[0]
        return row

    def table(self, index: int) -> pyarrow.Table:
        """A row as a table."""
        index = int(self.indices[range(len(self))[index]])
        number = int(np.searchsorted(self._ends, index, side="right"))
        if self._group is None or self._group[0] != number:
            self._group = None  # before the next one is read
            table = self._file().read_row_group(number, self.schema.names, use_threads=False)
            self._group = number, table.select(self.schema.names).cast(self.schema)
        table = self._group[1]
        return table.slice(index - int(self._ends[number]) + len(table), 1)

    def _file(self) -> parquet.ParquetFile:
        if self._process != os.getpid():  # a forked worker, which would move its parent's position in the file
            self._opened = parquet.ParquetFile(self.file, metadata=self._opened.metadata)
            self._process = os.getpid()
        return self._opened

    def texts(self) -> Iterator[dict[str, Any]]:
        """Every row in order, of its images only their number: `images` is a list of {"path"}. No image is read."""
        opened = self._file()
        leaves = (opened.schema.column(i).path for i in range(len(opened.schema)))
        columns = [path for path in leaves if path.split(".")[0] in self.schema.names and not path.endswith(".bytes")]
        start = 0
        for batch in opened.iter_batches(1024, columns=columns, use_threads=False):
            first, last = np.searchsorted(self.indices, (start, start + len(batch)))
            yield from batch.take(self.indices[first:last] - start).to_pylist()
            start += len(batch)

    def select(self, indices: Sequence[int] | np.ndarray) -> StoredRows:
        """The rows at `indices`, ascending."""
        return StoredRows(self.file, self.schema, self.indices[np.asarray(indices, np.int64)])

    def images(self, repeats: int = 1) -> Images:
        """The images of each row, `repeats` times one after the other."""
        return Images(self, repeats)

    def write(self, file: Path) -> None:
        """Writes the rows to another Parquet `file`, as they are."""
        with open_writer(file, self.schema) as writer:
            for table in joined(self.table(index).take([0]) for index in range(len(self))):
                writer.write_table(table)


class Images(Sequence[list[Any]]):
    """A column of decoded images that is never whole in memory."""

    def __init__(self, rows: StoredRows, repeats: int) -> None:
        self.rows, self.repeats = rows, repeats
        self._last: tuple[int, list[Any]] | None = None

    def __len__(self) -> int:
        return len(self.rows) * self.repeats

    def __getitem__(self, index: Any) -> Any:
        row = range(len(self))[index] // self.repeats
        if self._last is None or self._last[0] != row:
            self._last = row, self.rows[row]["images"]
        return self._last[1]


def joined(tables: Iterable[pyarrow.Table]) -> Iterator[pyarrow.Table]:
    """`tables`, neighbors put together up to GROUP_BYTES."""
    waiting: list[pyarrow.Table] = []
    size = 0
    for table in tables:
        if waiting and size + table.nbytes > GROUP_BYTES:
            yield pyarrow.concat_tables(waiting).combine_chunks()
            waiting, size = [], 0
        waiting.append(table)
        size += table.nbytes
    if waiting:
        yield pyarrow.concat_tables(waiting).combine_chunks()
