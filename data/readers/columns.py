"""Any Hub or local `datasets` dataset, streamed, with the recipe's `columns` saying which column is what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.cleaning.fixer import RowError
from data.readers.chat import image_finder, read_images, read_task
from data.readers.json_rows import read_json
from data.readers.parts import check_shards
from data.readers.raw import Raw, read_rows, text_at
from data.recipe import Source
from spatial_edit_reward.errors import UserError, one_line

TAKES_COLUMNS = True
LOADERS = {".parquet": "parquet", ".csv": "csv"}


def streamed(source: Source) -> Iterator[tuple[str, str, Any]]:
    """(location, number, row) of the dataset `source.path`: a Hub name, a folder or a data file; images stay bytes.

    Raises UserError where it cannot be loaded. JSON is read without `datasets`, which stops at a row unlike the others.
    """
    from datasets import load_dataset

    if Path(source.path).suffix in (".json", ".jsonl"):
        yield from read_json(Path(source.path))
        return
    loader = LOADERS.get(Path(source.path).suffix)
    dataset = {"path": loader, "data_files": source.path} if loader else {"path": source.path}
    check_shards(Path(source.path).rglob("*"))
    try:
        rows = load_dataset(**dataset, split=source.subset, streaming=True)
        for number, row in enumerate(rows.decode(False)):
            yield f"{source.path}, row {number + 1}", str(number), row
    except Exception as error:  # datasets raises many kinds
        raise UserError(f"source {source.name!r}: {source.path}: {one_line(error)}") from None


def renamed(row: Mapping[str, Any], columns: Mapping[str, str | list[str]]) -> dict[str, Any]:
    """The row under the names of `Columns`; several columns become one list. Raises RowError for a column that is not there."""
    for column in columns.values():
        for name in [column] if isinstance(column, str) else column:
            if name not in row:
                raise RowError("not_a_row", f"it has no column {name!r}; there are {', '.join(row)}")
    return {
        key: row[column] if isinstance(column, str) else [row[name] for name in column]
        for key, column in columns.items()
    }


def rows(source: Source) -> Iterator[Raw]:
    """The rows of the dataset. Raises UserError where it cannot be loaded."""
    columns = source.columns.model_dump(exclude_none=True) if source.columns else {}
    find = image_finder(source)

    def read(content: dict[str, Any]) -> Raw:
        row = renamed(content, columns)
        score, verdict = row.get("score"), text_at(row, "verdict")
        return Raw(
            id=text_at(row, "id") or "",
            images=read_images(row, find),
            task=read_task(row),
            prompt=text_at(row, "prompt"),
            instruction=text_at(row, "instruction"),
            verdict=verdict,
            score=tuple(score) if isinstance(score, list) else None,
            group=text_at(row, "group"),
            regions_known="edit_region" in (verdict or ""),
        )

    return read_rows(streamed(source), read)
