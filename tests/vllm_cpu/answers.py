"""Greedy answers of one backend to rows of a Parquet file: `python -m tests.vllm_cpu.answers BACKEND WEIGHTS ROWS OUTPUT`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from spatial_edit_reward import load_spec
from spatial_edit_reward.inference.backends import open_backend
from spatial_edit_reward.inference.request import Request


def greedy_answers(backend: str, weights: Path, rows: Path) -> dict[str, list]:
    """Row's id -> the text, and the numbers of prompt and completion tokens."""
    requests = [
        Request(
            row["id"],
            row["task"],
            row["instruction"],
            [Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image in row["images"]],
        )
        for row in pq.read_table(rows).to_pylist()
    ]
    answered = open_backend(backend, str(weights), load_spec(weights), batch_size=4)(requests)
    return {each.key: [reply.text, reply.prompt_tokens, reply.completion_tokens] for each, reply in answered}


if __name__ == "__main__":
    name, weights, rows, output = sys.argv[1], *map(Path, sys.argv[2:])
    output.write_text(json.dumps(greedy_answers(name, weights, rows)), encoding="utf-8")
