"""The same rows for other frameworks: LLaMA-Factory (with its `dataset_info.json` entry) and ms-swift, images as files beside.

python -m data.writers runs/tiny/data/train.parquet --format llamafactory --output_dir runs/tiny/llamafactory
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Image, List
from tqdm import tqdm

from data.readers.chat import PLACEHOLDER
from data.rows import load_rows
from pipeline.folders import atomic_directory
from spatial_edit_reward import Spec, load_spec, render
from spatial_edit_reward.errors import UserError, one_line_errors

FORMATS = ("llamafactory", "ms-swift")


def turns(row: Mapping[str, Any], spec: Spec) -> tuple[str, str]:
    """(question, answer) of a canonical row, a placeholder for each image first. Raises ValueError without a whole verdict."""
    question = PLACEHOLDER * len(row["images"]) + spec.prompt(row["task"], row["instruction"])
    return question, render(row["task"], row["reference"])


def swift_row(row: Mapping[str, Any], images: Sequence[str], spec: Spec) -> dict[str, Any]:
    """A canonical row as ms-swift (and SpatialReward-Train) has it: `messages` and `images`."""
    question, answer = turns(row, spec)
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "images": list(images)}


def sharegpt_row(row: Mapping[str, Any], images: Sequence[str], spec: Spec) -> dict[str, Any]:
    """A canonical row as LLaMA-Factory's ShareGPT format has it: `conversations` and `images`."""
    question, answer = turns(row, spec)
    return {
        "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}],
        "images": list(images),
    }


def dataset_info(file: str) -> dict[str, Any]:
    """LLaMA-Factory's entry for the data file."""
    return {"file_name": file, "formatting": "sharegpt", "columns": {"messages": "conversations", "images": "images"}}


def write(file: Path, spec: Spec, format_: str, folder: Path) -> int:
    """Writes the rows of the Parquet `file` as `folder/data.jsonl`, with `folder/images`; returns how many.

    Rows without a whole verdict are left out. Raises UserError where the file holds no canonical rows.
    """
    rows = load_rows(file, spec).cast_column("images", List(Image(decode=False)))
    make = sharegpt_row if format_ == "llamafactory" else swift_row
    written = 0
    with atomic_directory(folder) as partial, (partial / "data.jsonl").open("w") as out:
        (partial / "images").mkdir()
        for number, row in enumerate(tqdm(rows, desc=format_, unit="row")):
            names = [f"images/{number}_{place}{suffix(image['bytes'])}" for place, image in enumerate(row["images"])]
            try:
                made = make(row, names, spec)
            except ValueError:
                continue
            for name, image in zip(names, row["images"], strict=True):
                (partial / name).write_bytes(image["bytes"])
            extra = {"id": row["id"], "solution": row["task"], "instruction": row["instruction"], "group": row["group"]}
            out.write(json.dumps({**extra, **made}, ensure_ascii=False) + "\n")
            written += 1
        if format_ == "llamafactory":
            info = {"spatial_edit_reward": dataset_info("data.jsonl")}
            (partial / "dataset_info.json").write_text(json.dumps(info, indent=2) + "\n")
    return written


def suffix(content: bytes) -> str:
    """The file name's end for an image's first bytes."""
    return ".png" if content.startswith(b"\x89PNG") else ".webp" if content[8:12] == b"WEBP" else ".jpg"


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data.writers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path, help="a .parquet file of the data stage, its verdict.json beside it")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    arguments = parser.parse_args()
    if not arguments.rows.is_file():
        raise UserError(f"{arguments.rows}: no such file; `make data` makes the rows of a recipe")
    spec = load_spec(arguments.rows.parent)
    count = write(arguments.rows, spec, arguments.format, arguments.output_dir)
    print(f"{count} rows with a whole verdict in {arguments.output_dir / 'data.jsonl'}")


if __name__ == "__main__":
    main()
