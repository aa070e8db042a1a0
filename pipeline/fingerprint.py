"""Fingerprints: what a stage's output was made from, so that it is reused or resumed only for the very same inputs.

A stage's folder holds `fingerprint.json`: what it is made from, whether it is finished, and the names that must be there then.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spatial_edit_reward.errors import UserError, one_line
from spatial_edit_reward.files import differences, write_json

FILE_NAME = "fingerprint.json"


# Files beside a checkpoint that say what is known of it: written again, they make it no other checkpoint.
ABOUT = {FILE_NAME, "export_report.json"}


def hash_files(path: Path, patterns: tuple[str, ...] = ("*",)) -> str:
    """SHA-256 over the names and bytes of the files directly in the folder `path` that match (or of the file `path`).

    Raises UserError where there is nothing at `path`.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted({file for p in patterns for file in path.glob(p) if file.is_file()})
    for file in files:
        if file.name in ABOUT:
            continue
        digest.update(file.name.encode())
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]


def hash_rows(file: Path) -> str:
    """The fingerprint of a Parquet file of rows, by all but their images: of those its table of contents has the sizes.

    Seconds, where all of a file of 140 GB would take many minutes while the other processes wait. Raises UserError.
    """
    from pyarrow import ArrowException, parquet

    digest = hashlib.sha256()
    try:
        metadata = parquet.read_metadata(file)
        with file.open("rb") as opened:
            opened.seek(-8 - metadata.serialized_size, os.SEEK_END)
            digest.update(opened.read())
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                for column in map(group.column, range(group.num_columns)):
                    if not column.path_in_schema.startswith("images."):
                        opened.seek(column.dictionary_page_offset or column.data_page_offset)
                        digest.update(opened.read(column.total_compressed_size))
    except (OSError, ArrowException) as error:
        raise UserError(f"{file}: not a Parquet file of canonical rows: {one_line(error)}") from None
    return digest.hexdigest()[:16]


def hash_model(name: str) -> str:
    """The fingerprint of a local checkpoint folder's weights and configuration, or of a Hub name."""
    folder = Path(name)
    if not folder.is_dir():
        return f"hub:{name}"
    return hash_files(folder, ("*.safetensors", "*.json", "*.jinja"))


def read_record(folder: Path) -> dict[str, Any] | None:
    """What `fingerprint.json` in `folder` says; None where there is none. Raises UserError for one that no stage wrote."""
    file = folder / FILE_NAME
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_bytes())
        return {"made_from": record["made_from"], "finished": record["finished"], "outputs": record.get("outputs", [])}
    except (OSError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {error}; remove {folder} yourself to start over") from None


def missing_outputs(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """The outputs of a finished stage that are gone from its `folder`."""
    return [name for name in record["outputs"] if not (folder / name).exists()]


def is_finished(folder: Path) -> bool:
    """Whether `folder` holds the output of a stage that reached its end, all of it."""
    record = read_record(folder)
    return bool(record and record["finished"] and not missing_outputs(folder, record))


def is_up_to_date(folder: Path, fingerprint: Mapping[str, Any], rebuild: bool = False) -> bool:
    """True if `folder` holds the finished output of `fingerprint`; False if there is work to do or to go on with.

    Says so where an output of a finished stage is gone. Raises UserError where the folder holds work made from something else,
    naming what changed; with `rebuild` that is printed, and the output made anew.
    """
    record = read_record(folder)
    if record is None:
        return False
    changed = differences(record["made_from"], _as_json(fingerprint))
    if changed and rebuild:
        print(f"{folder} was made from something else ({'; '.join(changed)}): made anew")
        return False
    if changed:
        raise UserError(f"{folder} holds work made from something else ({'; '.join(changed)}): OVERWRITE=1 starts over")
    if not record["finished"]:
        return False
    missing = missing_outputs(folder, record)
    if missing:
        print(f"{folder} was finished, but {', '.join(missing)} is gone: made again")
        return False
    print(f"{folder}: already finished with this recipe, data and weights: nothing to do (OVERWRITE=1 starts over)")
    return True


def mark_started(folder: Path, fingerprint: Mapping[str, Any], outputs: Iterable[str] = ()) -> None:
    """Records what is being made in `folder`, from what. Raises UserError where that cannot be written."""
    record = {"made_from": _as_json(fingerprint), "finished": False, "outputs": sorted(outputs)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE_NAME, record)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None


def mark_finished(folder: Path, fingerprint: Mapping[str, Any], outputs: Iterable[str] = ()) -> None:
    """Marks the output in `folder` as finished, as long as every name in `outputs` is in it."""
    record = {"made_from": _as_json(fingerprint), "finished": True, "outputs": sorted(outputs)}
    write_json(folder / FILE_NAME, record)


def _as_json(fingerprint: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(fingerprint, default=str))
