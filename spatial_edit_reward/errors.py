"""Errors that a user can cause: one clear line and a non-zero exit instead of a traceback."""

from __future__ import annotations

import functools
import io
import os
import sys
import time
from collections.abc import Callable
from typing import Any


class UserError(Exception):
    """The message names the file, key or row and says what was expected."""


def one_line(error: object, limit: int = 200) -> str:
    """The text of another library's error on one line, cut at `limit` characters."""
    return " ".join(str(error).split())[:limit]


def first_error(error: Any) -> tuple[str, str]:
    """(key, what is wrong with it) of the first entry in pydantic's ValidationError; the key is "" for the whole."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not isinstance(first["input"], dict):  # a whole mapping would hide the message
        message += f", got {one_line(repr(first['input']))}"
    return ".".join(map(str, first["loc"])), message


class SpecError(UserError):
    """A `verdict.json` that is missing or does not hold what it must; the message names file and field."""


# Seconds that the processes beside a node's first one wait before they print an error: their launcher ends them meanwhile if
# the first one had it too, so that it is printed once.
OTHERS_WAIT = 30


def close_progress_bars() -> None:
    """Ends the line of every progress bar that is still shown, so that what is printed next has a line of its own."""
    if "tqdm" in sys.modules:
        for bar in list(sys.modules["tqdm"].tqdm._instances):
            bar.close()


def one_line_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Makes `main` end a UserError with one line on stderr and exit status 1, and Ctrl-C with status 130.

    Files and pipes get UTF-8, whatever the locale; a terminal that lacks a character shows its escape.
    """

    @functools.wraps(main)
    def guarded() -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
        if isinstance(sys.stdin, io.TextIOWrapper) and not sys.stdin.isatty():
            sys.stdin.reconfigure(encoding="utf-8-sig")
        try:
            main()
        except UserError as error:
            if os.environ.get("LOCAL_RANK", "0") != "0":
                time.sleep(OTHERS_WAIT)
            close_progress_bars()
            sys.exit(f"error: {error}")
        except KeyboardInterrupt as stop:  # a stage says in it how to go on
            close_progress_bars()
            print(f"interrupted; {stop}" if str(stop) else "interrupted", file=sys.stderr)
            sys.exit(130)

    return guarded
