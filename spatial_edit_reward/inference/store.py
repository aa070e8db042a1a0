"""A result file: one JSON line that says what is asked, then one line per verdict as it arrives. Append-only.

Verdicts are named by `key`, a hash of the prompt and the pictures, and `sample`, so that a question is asked once however often
it occurs, and a run that was killed goes on where it was. Several processes may write: each takes whole shards of the
questions, held by a lock that the system drops when the process dies.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from spatial_edit_reward.errors import UserError
from spatial_edit_reward.files import differences
from spatial_edit_reward.inference.request import Backend, Request

# Byte of the lock file that is held while lines are written; byte 1 + i stands for shard i.
WRITING = 0
Name = tuple[str, int]


def found_head(file: Path) -> dict[str, Any] | None:
    """The first line of a result file; None where the file is another. Raises UserError for one that cannot be read."""
    try:
        with file.open() as opened:
            head = json.loads(opened.readline())
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        return None
    return head if isinstance(head, dict) and "rows" in head else None


def read_head(file: Path) -> dict[str, Any]:
    """The first line of a result file. Raises UserError where there is none."""
    head = found_head(file)
    if head is None:
        raise UserError(f"{file}: not a result file: its first line does not say what was asked")
    return head


def read_verdicts(file: Path) -> dict[Name, dict[str, Any]]:
    """(key, sample) -> line of every verdict in `file`. A line that a kill cut off is left out: it will be asked again."""
    found = {}
    with file.open("rb") as opened:
        opened.readline()
        for line in opened:
            try:
                verdict = json.loads(line)
                found[verdict["key"], verdict["sample"]] = verdict
            except (ValueError, TypeError, KeyError):
                continue
    return found


@contextmanager
def _lock(file: Path) -> Iterator[int]:
    """A descriptor of the lock file beside `file`: one for all of a process's locks, which closing would drop."""
    descriptor = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _held(descriptor: int, byte: int, wait: bool) -> Iterator[bool]:
    """Whether the lock on `byte` was got; without `wait` it is not where another process has it."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, byte)


def start(file: Path, head: dict[str, Any], overwrite: bool) -> None:
    """Makes `file` with its head, whole or not at all; one that is there, with verdicts in it, must have the same.

    Raises UserError where it holds other work.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with _lock(file) as descriptor, _held(descriptor, WRITING, wait=True):
        if file.exists() and not overwrite:
            changed = differences(read_head(file), json.loads(json.dumps(head)))
            if changed and read_verdicts(file):
                said = "; ".join(line if len(line) < 200 else line[:200] + " ..." for line in changed)
                raise UserError(f"{file} holds verdicts of something else ({said}): OVERWRITE=1 starts over")
            if not changed:
                return
        partial = file.with_name(f"{file.name}.partial")
        partial.write_text(json.dumps(head, ensure_ascii=False) + "\n")
        os.replace(partial, file)


def shards(names: Sequence[Name]) -> list[Sequence[Name]]:
    """`names` in order, cut so that several processes find work and each batch is full: the same in every process."""
    size = min(max(len(names) // 8, 64), 256)
    return [names[first : first + size] for first in range(0, len(names), size)]


def ask_all(
    file: Path,
    names: Sequence[Name],
    question: Callable[[Name], Request | None],
    ask: Backend,
    batch_size: int,
    what: str,
) -> None:
    """Asks every question of `names` that `file` has no verdict for, and appends each answer as it comes.

    Synced to disk once per `batch_size` answers. Shards that another process works on are waited for at the end, and taken
    over should it die. What `question` has no pictures for (None) and what `ask` leaves out stays missing.
    """
    parts = shards(names)
    left = set(range(len(parts)))
    with _lock(file) as descriptor, tqdm(total=len(names), desc=what, unit="verdict", smoothing=0.05) as bar:
        for wait in (False, True):
            for number in sorted(left):
                with _held(descriptor, 1 + number, wait) as mine:
                    if not mine:
                        continue
                    left.discard(number)
                    done = read_verdicts(file)
                    bar.update(sum(name in done for name in names) - bar.n)
                    asked = [question(name) for name in parts[number] if name not in done]
                    askable = [one for one in asked if one is not None]
                    for count, (one, reply) in enumerate(ask(askable) if askable else (), 1):
                        with _held(descriptor, WRITING, wait=True):
                            line = {"key": one.key, "sample": one.sample, "task": one.task, **reply._asdict()}
                            _append(file, line, sync=count % batch_size == 0)
                        bar.update()
                    _sync(file)


def _append(file: Path, line: dict[str, Any], sync: bool) -> None:
    """Writes `line` at the end of `file`, on a line of its own also where a kill left half a line."""
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND)
    try:
        size = os.fstat(descriptor).st_size
        broken = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        content = ("\n" if broken else "") + json.dumps(line, ensure_ascii=False) + "\n"
        os.write(descriptor, content.encode())
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
