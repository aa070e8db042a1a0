"""What a data recipe reads, as far as it is known in seconds: the stage runs again when any of it has changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.hashes import IMAGE_FILES
from data.recipe import DataRecipe
from data.synthetic.generate import background_files
from pipeline.fingerprint import hash_files
from spatial_edit_reward.errors import UserError

# What an image of a row may end with: also formats whose row is dropped, and names without an end.
IMAGE_NAMES = IMAGE_FILES | {".jfif", ".avif", ".heic", ""}


def input_states(recipe: DataRecipe) -> dict[str, Any]:
    """Annotation files by content; images, their parts, datasets and benchmarks by the names, sizes and times of their files.

    Raises UserError for backgrounds or a tokenizer that are not there.
    """
    if recipe.tokenizer and not (recipe.tokenizer / "tokenizer.json").is_file():
        raise UserError(f"tokenizer: {recipe.tokenizer}: no tokenizer.json in it")
    paths = [*(Path(source.path) for source in recipe.sources), *recipe.benchmarks]
    if recipe.backgrounds:
        background_files(recipe.backgrounds)
        paths.append(recipe.backgrounds)
    output = recipe.output_dir.resolve()
    states = {
        str(path): hash_files(path) if path.is_file() else files_state(files_below(path, output)) for path in paths
    }
    for source in recipe.sources:
        path = Path(source.path)
        folder = source.images or path.parent
        if folder.is_dir() and (source.images or path.is_file()):
            images = (file for file in files_below(folder, output) if file.suffix.lower() in IMAGE_NAMES)
            states[f"images of {source.name}"] = files_state(images)
        elif source.images:
            parts = (part for part in sorted(folder.parent.glob(f"{folder.name}*")) if part.is_file())
            states[f"images of {source.name}"] = files_state(parts)
    return states


def files_below(folder: Path, output: Path) -> Iterator[Path]:
    """The files below `folder` in the order of their names, but for hidden folders and what the stage itself writes.

    Links to folders are followed, each folder is gone through once.
    """
    seen: set[str] = set()
    for current, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(current)
        if real in seen or real == str(output):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(current, name) for name in sorted(files))


def files_state(files: Iterator[Path]) -> dict[str, Any]:
    """How many `files` there are, their bytes together, and a hash of every name, size and time of change."""
    count = size = 0
    digest = hashlib.blake2b(digest_size=8)
    for file in tqdm(files, desc="looking at input files", unit="file", delay=2):
        try:
            stat = file.stat()
            bytes_and_time = stat.st_size, stat.st_mtime_ns
        except OSError:  # a link that leads nowhere
            bytes_and_time = 0, 0
        count, size = count + 1, size + bytes_and_time[0]
        digest.update(f"{file}\0{bytes_and_time}\n".encode(errors="surrogateescape"))
    return {"files": count, "bytes": size, "hash": digest.hexdigest()}
