"""Files as the Hub has them and as `hf download` leaves them: tar archives in pieces, Parquet with images in it, a card."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml


def tar_of(images: Mapping[str, bytes]) -> bytes:
    """A GNU tar of `images`, name -> content, and their folder before them."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        folder = tarfile.TarInfo("images")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        for name, content in images.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def cut(archive: bytes, files: Sequence[Path]) -> None:
    """Writes `archive` in pieces of the same size, the last one shorter, as `split -b` does."""
    size = -(-len(archive) // len(files))
    for number, file in enumerate(files):
        file.write_bytes(archive[number * size : (number + 1) * size])


def encoded(content: bytes) -> dict[str, Any]:
    """An image as a row of `datasets` holds it."""
    return {"bytes": content, "path": None}


def write_parquet(rows: list[dict[str, Any]], features: Any, folder: Path, split: str, files: int = 1) -> None:
    """Rows as `push_to_hub` stores them: `SPLIT-00000-of-00001.parquet`, images in them."""
    from datasets import Dataset

    folder.mkdir(parents=True, exist_ok=True)
    dataset = Dataset.from_list(rows, features=features)
    for index in range(files):
        dataset.shard(files, index).to_parquet(str(folder / f"{split}-{index:05d}-of-{files:05d}.parquet"))


def as_downloaded(folder: Path, card: Mapping[str, Any] | None = None) -> None:
    """Adds what else is there after `hf download --local-dir`: the card with its metadata, and the folder `.cache`."""
    names = [str(file.relative_to(folder)) for file in sorted(folder.rglob("*")) if file.is_file()]
    metadata = yaml.safe_dump(dict(card or {"license": "apache-2.0"}), sort_keys=False)
    (folder / "README.md").write_text(f"---\n{metadata}---\n\n# {folder.name}\n", encoding="utf-8")
    (folder / ".gitattributes").write_text("*.parquet filter=lfs diff=lfs merge=lfs -text\n")
    cache = folder / ".cache" / "huggingface"
    for name in names:
        file = cache / "download" / f"{name}.metadata"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{'0' * 40}\n{'0' * 64}\n0\n")
    (cache / ".gitignore").write_text("*")
