"""A process that writes into a shared store, without a model: `python -m <this module> FILE LOG COUNT SECONDS`.

Sends COUNT requests, SECONDS each, into FILE, and writes the key of every request to LOG before its response.
"""

import os
import sys
import time
from pathlib import Path

from spatial_edit_reward.inference.request import Request, Response
from spatial_edit_reward.inference.store import create, generate_missing

HEADER = {"model": "none", "rows": []}


def main():
    file, log, count, seconds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def backend(requests):
        for request in requests:
            os.write(out, f"{request.key}\n".encode())
            time.sleep(seconds)
            yield request, Response(f"response to {request.key} by {os.getpid()}", False)

    create(file, HEADER)
    names = [(f"key{number}", 0) for number in range(count)]
    generate_missing(file, names, lambda name: Request(name[0], "pq", "x", [], name[1]), backend, 8, "asked")


if __name__ == "__main__":
    main()
