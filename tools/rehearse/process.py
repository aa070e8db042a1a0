"""One stage of a rehearsal as a process: its output in a file, the memory of all its processes, the warnings it printed."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

EVERY = 1.0  # seconds between two looks at the memory
WARNING = re.compile(r"\b[A-Za-z]*Warning: |\bWARNING\b|^\[transformers\] |^\[?W\d{4} |\bdeprecated\b")
# What a stage or Python says of an error; a launcher writes a page of its own below it.
ERROR = re.compile(r"^error: |^(?!.*ChildFailedError)[\w.]*(Error|Exception|Interrupt)\b")


class Measured(NamedTuple):
    """How a process ended; of memory the most that one process held, and all together with what they share counted once.

    `errors`: the lines that name one, else the last lines.
    """

    status: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    peak_bytes_together: int
    warnings: list[str]
    errors: list[str]


def memory_of(process: psutil.Process) -> tuple[int, int]:
    """(the largest process, all together with what they share counted once) of `process` and its children, in bytes."""
    largest = together = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            held = one.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        largest, together = max(largest, held.rss), together + held.pss
    return largest, together


def cpu_seconds() -> float:
    """What all processes took that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_measured(command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]) -> Measured:
    """Runs `command` in `folder` to its end, its output in `log`. Interrupted, it ends the command and its children too."""
    start, cpu, largest, together = time.monotonic(), cpu_seconds(), 0, 0
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as out:
        running = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process = psutil.Process(running.pid)
            while running.poll() is None:
                try:
                    now = memory_of(process)
                except psutil.NoSuchProcess:
                    break
                largest, together = max(largest, now[0]), max(together, now[1])
                time.sleep(EVERY)
            status = running.wait()
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGTERM)
                running.wait()
    # a progress bar writes over its own line
    lines = [line.split("\r")[-1].rstrip() for line in log.read_text(encoding="utf-8", errors="replace").split("\n")]
    lines = [line for line in lines if line]
    warnings = [line for line in lines if WARNING.search(line)]
    errors = list(dict.fromkeys(line for line in lines if ERROR.search(line)))[-3:] or lines[-5:]
    return Measured(status, time.monotonic() - start, cpu_seconds() - cpu, largest, together, warnings, errors)
