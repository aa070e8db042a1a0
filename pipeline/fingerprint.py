"""Fingerprints: what a stage's output was made from, so that it is reused or resumed only for the very same inputs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spatial_edit_reward.errors import UserError
from spatial_edit_reward.files import differences, write_json

FILE_NAME = "fingerprint.json"


# Files beside a checkpoint that say what is known of it: written again, they make it no other checkpoint.
ABOUT = {FILE_NAME, "export_report.json"}


def hash_files(path: Path, patterns: tuple[str, ...] = ("*",)) -> str:
    """SHA-256 over the names and bytes of the files directly in the folder `path` that match (or of the file `path`)."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted({file for p in patterns for file in path.glob(p) if file.is_file()})
    for file in files:
        if file.name in ABOUT:
            continue
        digest.update(file.name.encode())
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]


def hash_model(name: str) -> str:
    """The fingerprint of a local checkpoint folder's weights and configuration, or of a Hub name."""
    folder = Path(name)
    if not folder.is_dir():
        return f"hub:{name}"
    return hash_files(folder, ("*.safetensors", "*.json", "*.jinja"))


def is_up_to_date(folder: Path, fingerprint: Mapping[str, Any], overwrite: bool, rebuild: bool = False) -> bool:
    """True if `folder` holds the finished output of `fingerprint`; False if there is work to do or to go on with.

    `fresh` removes what is there. Raises UserError where it holds work made from something else, saying what changed; with
    `rebuild` that is said and made anew instead.
    """
    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    file = folder / FILE_NAME
    if not file.exists():
        return False
    try:
        found = json.loads(file.read_text())
        changed = differences(found["made_from"], _as_json(fingerprint))
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}; OVERWRITE=1 starts over") from None
    if changed and rebuild:
        print(f"{folder} was made from something else ({'; '.join(changed)}): made anew")
        return False
    if changed:
        raise UserError(f"{folder} holds work made from something else ({'; '.join(changed)}): OVERWRITE=1 starts over")
    if found["finished"]:
        print(f"{folder}: already finished with this recipe, data and weights: nothing to do (OVERWRITE=1 starts over)")
    return bool(found["finished"])


def mark_started(folder: Path, fingerprint: Mapping[str, Any]) -> None:
    """Records what is being made in `folder`. Raises UserError where that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE_NAME, {"made_from": _as_json(fingerprint), "finished": False})
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None


def mark_finished(folder: Path, fingerprint: Mapping[str, Any]) -> None:
    """Marks the output in `folder` as finished."""
    write_json(folder / FILE_NAME, {"made_from": _as_json(fingerprint), "finished": True})


def _as_json(fingerprint: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(fingerprint, default=str))


def is_finished(folder: Path) -> bool:
    """Whether `folder` holds the output of a stage that reached its end."""
    file = folder / FILE_NAME
    return file.exists() and bool(json.loads(file.read_text())["finished"])
