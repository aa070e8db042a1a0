"""The folders that stages write: one process at a time, whole or not there, and never one that somebody else made."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, SoftFileLock, Timeout

from pipeline.fingerprint import FILE_NAME, is_finished, is_up_to_date, mark_finished, mark_started, read_record
from spatial_edit_reward.errors import UserError

Fingerprint = Mapping[str, Any]


def require(path: Path, stage: str) -> Path:
    """`path` if it is there. Raises UserError naming the earlier `stage` that makes it."""
    if not path.exists():
        raise UserError(f"{path} is not there: run 'make {stage}' first (with the same RECIPE)")
    return path


def require_finished(folder: Path, stage: str) -> None:
    """Raises UserError where `folder` does not hold the finished output of the earlier `stage`."""
    if not is_finished(folder):
        raise UserError(f"{folder} is not finished: run 'make {stage}' first (with the same RECIPE)")


def require_own(folder: Path) -> None:
    """Raises UserError for a folder with files in it that no stage wrote: it is neither removed, replaced nor written into.

    A stage's folder holds `fingerprint.json`, and that file names what is in it (`sft/merged`).
    """
    # A kill can leave the first fingerprint half written, under a name that begins like it.
    foreign = folder.is_dir() and any(not path.name.startswith(FILE_NAME) for path in folder.iterdir())
    parent = read_record(folder.parent)
    if foreign and not read_record(folder) and not (parent and folder.name in parent["outputs"]):
        raise UserError(
            f"{folder} holds files of another origin (there is no {FILE_NAME} in it): nothing in it was touched; "
            "give another output_dir, or move them away"
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: cannot be written: it is a file")


def _hidden(folder: Path, suffix: str) -> Path:
    """A name beside `folder` that is this module's alone: a user's own copies are called otherwise."""
    return folder.with_name(f".{folder.name}.{suffix}")


def _set_aside(folder: Path) -> Path:
    """Gives `folder` a name that no stage reads, in one step."""
    aside = _hidden(folder, "old")
    _discard(aside)
    try:
        return folder.rename(aside)
    except OSError as error:
        raise UserError(f"{folder}: cannot be removed: {error.strerror}") from None


def _discard(folder: Path) -> None:
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be removed: {error.strerror}") from None


@contextmanager
def atomic_directory(folder: Path) -> Iterator[Path]:
    """Yields a hidden sibling to write into; it takes `folder`'s place on success and is deleted on any failure.

    A kill between the two renames leaves the former content as `.NAME.old`, and the next call puts it back. Raises UserError
    where the folder cannot be written, or holds files that no stage wrote.
    """
    folder = folder.resolve() if folder.is_symlink() else folder
    partial, old = _hidden(folder, "partial"), _hidden(folder, "old")
    require_own(folder)
    try:
        if old.exists() and not folder.exists():
            old.rename(folder)
        _discard(partial)
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
    try:
        yield partial
        replaced = _set_aside(folder) if folder.exists() else None
        partial.rename(folder)
        if replaced:
            _discard(replaced)
    finally:
        _discard(partial)


@contextmanager
def stage_lock(folder: Path) -> Iterator[None]:
    """Holds the stage that writes `folder`; a kill lets go of it. Raises UserError saying which process holds it already."""
    file = folder.with_name(f".{folder.name}.lock")
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"{folder} is being written by {_holder(file)}: wait for its end, or stop it") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
    try:
        # A SoftFileLock is what filelock falls back to where a disk has no locks, and writes its own file.
        if not isinstance(lock, SoftFileLock):
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write_text(
                json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}), encoding="utf-8"
            )
        yield
    finally:
        file.unlink(missing_ok=True)  # first: filelock does not take a lock whose file is gone
        lock.release()


def _holder(file: Path) -> str:
    try:
        held = json.loads(file.read_bytes())
        return f"process {held['pid']} on {held['host']} since {held['since']}"
    except (OSError, ValueError, TypeError, KeyError):  # between taking the lock and writing this
        return f"another process ({file})"


@contextmanager
def stage_output(
    folder: Path,
    fingerprint: Callable[[], Fingerprint],
    *,
    overwrite: bool = False,
    outputs: Sequence[str] = (),
    rebuild: bool = False,
    atomic: bool = False,
    on_main: Callable[[Callable[[], Fingerprint | None]], Fingerprint | None] | None = None,
) -> Iterator[Path | None]:
    """The folder for a stage's output, held against other processes, or None where it is finished already.

    What is in it is gone on with; with `atomic` a new folder takes its place at the end instead. Reaching the end of the block
    marks the output as finished.

    Args:
        folder: Where the stage writes: `runs/NAME/STAGE`.
        fingerprint: Makes what the output depends on; called once the folder is held.
        overwrite: Remove what the stage wrote there before.
        outputs: Names in the folder that must be there for it to count as finished; with `atomic` all that was written.
        rebuild: Make the output anew where it was made from something else, instead of refusing.
        atomic: Nothing of a run that did not reach its end is kept.
        on_main: Of several processes, `pipeline.distributed.on_main_process`: the main one alone holds and marks the folder.

    Raises UserError where another process holds the folder, or where it holds other work or files that no stage wrote.

    Example::

        with stage_output(folder, lambda: {"rows": hash_files(rows)}, outputs=["table.json"]) as output:
            if output is not None:
                write_table(output / "table.json")
    """
    with ExitStack() as held:
        holding = False

        def start() -> Fingerprint | None:
            nonlocal holding
            held.enter_context(stage_lock(folder))
            holding = True
            require_own(folder)
            made_from = fingerprint()
            if not overwrite and is_up_to_date(folder, made_from, rebuild):
                return None
            if not atomic:
                if overwrite and folder.exists():
                    _discard(_set_aside(folder))
                mark_started(folder, made_from, outputs)
            return made_from

        made_from = on_main(start) if on_main else start()
        if made_from is None:
            yield None
            return
        try:
            if atomic:
                with atomic_directory(folder) as partial:
                    yield partial
                    mark_finished(partial, made_from, [path.name for path in partial.iterdir()])
                return
            yield folder
            if holding:
                mark_finished(folder, made_from, outputs)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                "nothing was kept: the same command starts over" if atomic else "run the same command to continue"
            ) from None
