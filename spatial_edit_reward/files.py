"""JSON files: written in one step, and compared."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any


def write_json(file: Path, content: Any) -> None:
    """Writes JSON in one step: the file is complete, or as it was, also where several processes write it."""
    partial = file.with_name(f"{file.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
        os.replace(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """What differs between two JSON values, the first three keys, as "key: old -> new"."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        lines = [line for key in keys for line in differences(old.get(key), new.get(key), f"{at}.{key}" if at else key)]
        return lines[:3]
    return [] if old == new else [f"{at}: {old!r} -> {new!r}"]
