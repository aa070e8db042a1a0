"""The same rows for other frameworks: LLaMA-Factory (with its `dataset_info.json` entry) and ms-swift, images as files beside.

    python -m data.writers runs/tiny/data/train.parquet --format llamafactory --output_dir LLaMA-Factory/data/edits

The files are added to the folder, whatever else is in it; a file that is there already is never replaced.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.readers.chat import PLACEHOLDER
from data.rows import as_decimals, load_rows
from spatial_edit_reward import Spec, load_spec, render
from spatial_edit_reward.errors import UserError, one_line_errors
from spatial_edit_reward.files import write_json
from spatial_edit_reward.schema import plain_text

# What these frameworks put something else for; one too many in an instruction ends their run.
FOREIGN_PLACEHOLDER = re.compile("<(image|video|audio|bbox|ref-object|cot-process)>")
FORMATS = ("llamafactory", "ms-swift")
ROWS_FILE = "data.jsonl"
INFO_FILE = "dataset_info.json"
# LLaMA-Factory's entry for the data file.
INFO_NAME = "spatial_edit_reward"
INFO = {
    "file_name": ROWS_FILE,
    "formatting": "sharegpt",
    "columns": {"messages": "conversations", "images": "images"},
}


def framework_row(row: Mapping[str, Any], images: Sequence[str], spec: Spec, framework: str) -> dict[str, Any]:
    """A canonical row as ms-swift (and SpatialReward-Train) has it, `messages`, or LLaMA-Factory, `conversations`.

    `images`: the paths of its images, a placeholder of each before the prompt. Raises ValueError without a complete verdict.
    """
    texts = spec.prompt(row["task"], row["instruction"]), plain_text(render(row["task"], as_decimals(row["reference"])))
    prompt, verdict = (FOREIGN_PLACEHOLDER.sub(r"< \1 >", text) for text in texts)
    prompt = PLACEHOLDER * len(row["images"]) + prompt
    turns: dict[str, Any] = {
        "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": verdict}]
    }
    if framework == "llamafactory":
        turns = {"conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": verdict}]}
    names = {"id": row["id"], "solution": row["task"], "instruction": row["instruction"], "group": row["group"]}
    return {**names, **turns, "images": list(images)}


def dataset_info(folder: Path) -> dict[str, Any]:
    """LLaMA-Factory's `dataset_info.json` in `folder` with our entry added. Raises UserError where it is there already."""
    file = folder / INFO_FILE
    try:
        info = json.loads(file.read_bytes()) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    if not isinstance(info, dict):
        raise UserError(f"{file}: not a JSON object of datasets")
    if INFO_NAME in info:
        raise UserError(f"{file}: there is an entry {INFO_NAME!r} already: nothing was written")
    return {**info, INFO_NAME: INFO}


def write(file: Path, spec: Spec, framework: str, folder: Path) -> tuple[int, int]:
    """Adds the rows of the Parquet `file` to `folder` as `data.jsonl` and `images`.

    Returns (rows written, rows left out because they have no complete verdict). Raises UserError where the file holds no
    canonical rows, or where a file to write is there already; then nothing was written.
    """
    rows = load_rows(file, spec)
    folder.mkdir(parents=True, exist_ok=True)
    info = dataset_info(folder) if framework == "llamafactory" else None
    written = 0
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as name:
        partial = Path(name)
        (partial / "images").mkdir()
        with (partial / ROWS_FILE).open("w", encoding="utf-8") as out:
            for number in tqdm(range(len(rows)), desc=framework, unit="row"):
                row = rows.encoded(number)
                contents = [image["bytes"] for image in row["images"]]
                names = [f"images/{number}_{index}{suffix(content)}" for index, content in enumerate(contents)]
                try:
                    content = framework_row(row, names, spec, framework)
                except ValueError:
                    continue
                for image_name, image in zip(names, contents, strict=True):
                    (partial / image_name).write_bytes(image)
                out.write(json.dumps(content, ensure_ascii=False) + "\n")
                written += 1
        move_into(partial, folder, info)
    return written, len(rows) - written


def move_into(partial: Path, folder: Path, info: Mapping[str, Any] | None) -> None:
    """Moves the files below `partial` to `folder`, one step each, then writes `info`; a failure undoes the moves.

    Raises UserError, before the first, for a file that is there; it names what a killed run left.
    """
    files = [file.relative_to(partial) for file in sorted(partial.rglob("*")) if file.is_file()]
    if there := [name for name in files if os.path.lexists(folder / name)]:
        message = f"{folder / there[0]} is there already: nothing was written; give another folder, or move it away"
        if killed := [path.name for path in sorted(folder.glob(".partial-*")) if path != partial]:
            names = f"{there[0]} to {there[-1]} ({len(there)} of the names to write)" if there[1:] else str(there[0])
            message += f"; if a run was killed there, delete what it left: {', '.join(killed)} and {names}"
        raise UserError(message)
    (folder / "images").mkdir(exist_ok=True)
    moved: list[Path] = []
    try:
        for name in sorted(files, key=lambda name: name.name == ROWS_FILE):  # the rows last: what they name is there
            os.rename(partial / name, folder / name)
            moved.append(folder / name)
        if info:
            write_json(folder / INFO_FILE, info)
    except BaseException:
        for file in moved:
            file.unlink()
        raise


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
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="the folder to add to; made where it is not there"
    )
    arguments = parser.parse_args()
    if not arguments.rows.is_file():
        raise UserError(f"{arguments.rows}: no such file; `make data` makes the rows of a recipe")
    spec = load_spec(arguments.rows.parent)
    try:
        written, left_out = write(arguments.rows, spec, arguments.format, arguments.output_dir)
    except OSError as error:
        raise UserError(f"{arguments.output_dir}: cannot be written: {error}") from None
    print(f"{written} rows in {arguments.output_dir / ROWS_FILE}, {left_out} without a complete verdict left out")


if __name__ == "__main__":
    main()
