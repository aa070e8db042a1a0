"""The store of responses: a JSON line that says what is asked (the header), then one line per response as it arrives.

Append-only. Responses are named by `key`, a hash of the prompt and the images, and `sample`, so that a request is sent once
however often it occurs, and a run that was killed goes on where it was. Several processes may share a file, of one launch or
started by hand: each takes whole shards of the requests, held by a lock that the system drops when the process dies.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from spatial_edit_reward.errors import UserError
from spatial_edit_reward.files import differences
from spatial_edit_reward.inference.request import Backend, Request

MAX_SHARDS = 128  # each is held by an open file
Name = tuple[str, int]


@contextmanager
def _one_line_errors(file: Path) -> Iterator[None]:
    """Makes a full disk and the like a UserError."""
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{file}: {reason}; its responses are kept: run the same command to continue") from None


def header_or_none(file: Path) -> dict[str, Any] | None:
    """The header of a file of responses; None where the file is another. Raises UserError for one that cannot be read."""
    try:
        with file.open("rb") as opened:
            header = json.loads(opened.readline())
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) and "model" in header else None


def read_header(file: Path) -> dict[str, Any]:
    """The header of a file of responses. Raises UserError where there is none."""
    header = header_or_none(file)
    if header is None:
        raise UserError(f"{file}: not a file of responses: its first line does not say what was asked")
    return header


def _responses(file: Path, start: int) -> Iterator[tuple[int, Name, dict[str, Any]]]:
    """(where its line ends, name, content) of every response behind byte `start`; what is no response is passed over.

    Lines end with a line feed alone: a text may hold U+2028 and other separators as they are.
    """
    with file.open("rb") as opened:
        opened.seek(start)
        for line in opened:
            if not line.endswith(b"\n"):  # being written, or cut off by a kill
                return
            start += len(line)
            try:
                content = json.loads(line)
                name = content["key"], content["sample"]
            except (ValueError, TypeError, KeyError, RecursionError):
                continue
            yield start, name, content


def read_responses(file: Path) -> dict[Name, dict[str, Any]]:
    """(key, sample) -> line of every response in `file`. A line that a kill cut off is left out: it is asked for again."""
    with _one_line_errors(file):
        return {name: content for _, name, content in _responses(file, 0)}


def _lock(file: Path, name: str) -> FileLock:
    """The lock `name` of `file`, not yet held; lock files stay, in a hidden folder beside it."""
    folder = file.with_name(f".{file.name}.locks")
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock")


def create(file: Path, header: dict[str, Any], overwrite: bool = False) -> None:
    """Makes `file` with its `header`, in one step; one that is there, with responses in it, must have the same.

    Raises UserError where it holds other work.
    """
    with _one_line_errors(file), _lock(file, "write"):
        if file.exists() and not overwrite:
            changed = differences(read_header(file), json.loads(json.dumps(header)))
            if changed and read_responses(file):
                shown = "; ".join(line if len(line) < 200 else line[:200] + " ..." for line in changed)
                raise UserError(f"{file} holds responses to something else ({shown}): OVERWRITE=1 starts over")
            if not changed:
                return
        partial = file.with_name(f"{file.name}.partial")
        partial.write_text(json.dumps(header) + "\n", encoding="utf-8")
        os.replace(partial, file)


def generate_missing(
    file: Path,
    names: Sequence[Name],
    make_request: Callable[[Name], Request | None],
    backend: Backend,
    batch_size: int,
    desc: str,
) -> None:
    """Asks `backend` for every response of `names` that `file` lacks, and appends each as it comes.

    Synced to disk once per `batch_size` responses. Shards that another process works on are waited for at the end, and taken
    over should it die. What `make_request` has no images for (None) and what `backend` leaves out stays missing. Where nothing
    is missing, `backend` is not called. Raises UserError where `file` cannot be written; the same call then goes on.
    """
    size = max(len(names) // MAX_SHARDS + 1, 64)  # the same in every process
    remaining, missing, end = list(range(0, len(names), size)), set(names), 0

    def claim(held: ExitStack, starts: Sequence[int], wait: bool) -> Iterator[Request]:
        """The missing requests of the shards at `starts` that no other process has; with `wait`, once others are done."""
        nonlocal end
        for start in starts:
            try:
                with _one_line_errors(file):
                    held.enter_context(_lock(file, str(start)).acquire(blocking=wait))
                    new = [(end, name) for end, name, _ in _responses(file, end)]
            except Timeout:
                continue
            remaining.remove(start)
            for end, name in new:  # noqa: B007 - the next shard goes on from there
                bar.update(name in missing)
                missing.discard(name)
            for name in names[start : start + size]:
                if name in missing and (request := make_request(name)) is not None:
                    yield request

    def generate(starts: Sequence[int], wait: bool) -> None:
        """Appends what the shards at `starts` lack, in one call of `backend`."""
        with ExitStack() as held:
            requests = claim(held, starts, wait)
            if (first := next(requests, None)) is None:
                return
            for count, (request, response) in enumerate(backend(chain([first], requests)), 1):
                line = {"key": request.key, "sample": request.sample, "task": request.task}
                _append(file, line | response._asdict(), sync=count % batch_size == 0)
                bar.update((request.key, request.sample) in missing)
                missing.discard((request.key, request.sample))
            _append(file, None, sync=True)

    quiet = os.environ.get("RANK", "0") != "0"
    with tqdm(total=len(names), desc=desc, unit="response", smoothing=0.05, disable=quiet) as bar:
        generate(list(remaining), wait=False)
        for start in list(remaining):  # a call each: waiting within one would keep its requests in flight waiting too
            generate([start], wait=True)


def _append(file: Path, line: dict[str, Any] | None, sync: bool) -> None:
    """Writes `line` at the end of `file`, in the place of half a line that a kill may have left there."""
    with _one_line_errors(file), _lock(file, "write").acquire(poll_interval=0.005), file.open("rb+") as opened:
        if line is not None:
            opened.seek(max(0, opened.seek(0, os.SEEK_END) - 1))
            if opened.read(1) not in (b"\n", b""):  # whoever wrote it is dead: it held this lock
                opened.seek(0)
                opened.truncate(opened.read().rfind(b"\n") + 1)
                opened.seek(0, os.SEEK_END)
            # In ASCII, in which half of a surrogate pair can be written too.
            opened.write(json.dumps(line).encode() + b"\n")
            opened.flush()
        if sync:
            os.fsync(opened.fileno())
