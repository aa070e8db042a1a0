"""A process of a shared run without a model: `python -m tests.evaluation.benchmarks.asker FILE LOG COUNT SECONDS`.

Asks COUNT questions into FILE, SECONDS each, and writes the key of every question to LOG before it is answered.
"""

import os
import sys
import time
from pathlib import Path

from spatial_edit_reward.inference.request import Request, Response
from spatial_edit_reward.inference.store import ask_all, start

HEAD = {"bench": "none", "rows": []}


def main():
    file, log, count, seconds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def ask(questions):
        for question in questions:
            os.write(out, f"{question.key}\n".encode())
            time.sleep(seconds)
            yield question, Response(f"answer to {question.key} by {os.getpid()}", False)

    start(file, HEAD, False)
    names = [(f"key{number}", 0) for number in range(count)]
    ask_all(file, names, lambda name: Request(name[0], "pq", "x", [], name[1]), ask, 8, "asked")


if __name__ == "__main__":
    main()
