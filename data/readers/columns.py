"""Any Hub or local `datasets` dataset, streamed, with the recipe's `columns` saying which column is what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Features, Image, IterableDataset, List, load_dataset

from data.cleaning.fixer import RowError
from data.readers.chat import pictures, task_of, text_at
from data.readers.raw import Raw
from data.recipe import Source
from spatial_edit_reward.errors import UserError


def streamed(source: Source) -> IterableDataset:
    """The dataset of `source.path` (a Hub name, a folder, a data file), images left as bytes. Raises UserError without it."""
    path = Path(source.path)
    kind = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}.get(path.suffix)
    place: dict[str, Any] = {"path": kind, "data_files": str(path)} if kind else {"path": source.path}
    try:
        rows = load_dataset(**place, split=source.subset, streaming=True)
    except Exception as error:  # datasets raises many kinds
        raise UserError(f"source {source.name!r}: {source.path}: {' '.join(str(error).split())[:200]}") from None
    undecoded = {name: kind for name, kind in (rows.features or {}).items() if holds_images(kind)}
    for name, kind in undecoded.items():
        rows = rows.cast_column(name, Image(decode=False) if isinstance(kind, Image) else List(Image(decode=False)))
    return rows


def holds_images(kind: Features) -> bool:
    return isinstance(kind, Image) or (isinstance(kind, List) and isinstance(kind.feature, Image))


def picked(row: Mapping[str, Any], columns: Mapping[str, str | list[str]]) -> dict[str, Any]:
    """The row under the names of `Columns`; several columns become one list. Raises RowError for a column that is not there."""
    result: dict[str, Any] = {}
    for name, column in columns.items():
        wanted = [column] if isinstance(column, str) else column
        missing = [one for one in wanted if one not in row]
        if missing:
            raise RowError("not_a_row", f"it has no column {missing[0]!r}; there are {', '.join(row)}")
        result[name] = row[column] if isinstance(column, str) else [row[one] for one in column]
    return result


def rows(source: Source) -> Iterator[Raw]:
    """The rows of the dataset. Raises UserError where it cannot be loaded."""
    columns = source.columns.model_dump(exclude_none=True) if source.columns else {}

    def find(path: str) -> Path:
        return (source.images or Path(source.path)) / path

    for number, content in enumerate(streamed(source)):
        place, identity = f"{source.path}[{number}]", str(number)
        try:
            row = picked(content, columns)
            identity = text_at(row, "id") or identity
            score = row.get("score")
            yield Raw(
                place=place,
                id=identity,
                images=pictures(row, find),
                task=task_of(row),
                prompt=text_at(row, "prompt"),
                instruction=text_at(row, "instruction"),
                verdict=text_at(row, "verdict"),
                score=tuple(score) if isinstance(score, list) else None,
                group=text_at(row, "group"),
                regions_known="edit_region" in (text_at(row, "verdict") or ""),
            )
        except RowError as fault:
            yield Raw(place=place, id=identity, fault=fault)
