"""Folders that appear under their name only when they are whole, so that no later stage picks up half of one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spatial_edit_reward.errors import UserError


@contextmanager
def atomic_directory(folder: Path) -> Iterator[Path]:
    """Yields a `.partial` sibling to write into; it takes `folder`'s place on success and is deleted on any failure.

    Raises UserError where the place cannot be written.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
    try:
        yield partial
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require(path: Path, stage: str) -> Path:
    """`path` if it is there. Raises UserError naming the earlier `stage` that makes it."""
    if not path.exists():
        raise UserError(f"{path} is not there: run 'make {stage}' first (with the same RECIPE)")
    return path
