"""Errors that a user can cause: one clear line and a non-zero exit instead of a traceback."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

from verdict import SpecError


class UserError(Exception):
    """The message names the file, key or row and says what was expected."""


def one_line_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Makes `main` end a UserError or SpecError with one line on stderr and exit status 1, and Ctrl-C with status 130."""

    @functools.wraps(main)
    def guarded() -> None:
        try:
            main()
        except (UserError, SpecError) as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            print("interrupted: the same command goes on from the last complete checkpoint", file=sys.stderr)
            sys.exit(130)

    return guarded
