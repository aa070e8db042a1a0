"""Images by their pixels: the exact hash that ties rows together, and look-alikes of a benchmark's images."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.readers.parts import check_shards
from spatial_edit_reward.errors import UserError, one_line
from spatial_edit_reward.images import IMAGE_FORMATS, ImageError, fit, name_format, read_image
from spatial_edit_reward.spec import Pixels

IMAGE_FILES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
TABLES = {".parquet", ".arrow"}
# What `save_to_disk` writes beside its tables.
ABOUT_TABLES = {"state.json", "dataset_info.json", "dataset_dict.json"}
# What may hold a benchmark's images and is not read: passed over, its images would be trained on without a word.
NOT_READ = {
    ".json",
    ".jsonl",
    ".csv",
    ".tsv",
    ".tar",
    ".zip",
    ".gz",
    ".tgz",
    ".zst",
    ".7z",
    ".lmdb",
    ".h5",
    ".npy",
    ".npz",
}
NOT_READ |= {".avif", ".heic"}


def pixel_hash(image: Image.Image) -> bytes:
    """16 bytes that are the same for the same RGB pixels in the same size."""
    return hashlib.blake2b(image.tobytes(), digest_size=16, salt=b"%dx%d" % image.size).digest()


def perceptual_hash(image: Image.Image) -> int:
    """imagehash's 64-bit perceptual hash: look-alikes (other codec, other size) differ in a few bits."""
    import imagehash  # a second to import, and needed only where there are benchmarks

    return int(str(imagehash.phash(image)), 16)


class Benchmark(NamedTuple):
    """The images that must not be trained on, after the same fit as every row's."""

    exact: frozenset[bytes]
    perceptual: np.ndarray
    distance: int

    def overlap(self, image: Image.Image, digest: bytes) -> str | None:
        """ "exact", or "perceptual" where an image differs in at most `distance` of 64 bits; None where none is alike."""
        if digest in self.exact:
            return "exact"
        if len(self.perceptual):
            bits = np.bitwise_count(self.perceptual ^ np.uint64(perceptual_hash(image)))
            if int(bits.min()) <= self.distance:
                return "perceptual"
        return None


def kind_of(file: Path) -> str:
    """What a benchmark's file is: "image", "table", "data" that is not read, or "text" (and other files without images)."""
    suffix = file.suffix.lower()
    if suffix in IMAGE_FILES:
        return "image"
    if suffix in TABLES:
        return "table"
    if file.name in ABOUT_TABLES or file.name.startswith(".") or suffix == ".pdf":
        return "text"
    if suffix in NOT_READ:
        return "data"
    if not file.is_file():
        return "text"
    with file.open("rb") as opened:
        head = opened.read(4096)
    if name_format(head) in IMAGE_FORMATS:
        return "image"
    return "data" if b"\0" in head else "text"


def images_in(path: Path) -> Iterator[Path | bytes]:
    """Every image of a file, or below a folder: image files, and those in Parquet and Arrow files, in whatever column.

    Prints which files are not read. Raises UserError for no image, and for files with data that are not read.
    """
    if not path.exists():
        raise UserError(f"benchmarks: {path}: no such file or folder")
    below = path.rglob("*") if path.is_dir() else [path]
    files = sorted(file for file in below if ".cache" not in file.relative_to(path).parts and not file.is_dir())
    kinds = {file: kind_of(file) for file in files if file.exists() or file.is_symlink()}
    unread = [file.name for file, kind in kinds.items() if kind == "data"]
    if unread:
        raise UserError(
            f"benchmarks: {path}: {few(unread)} cannot be read, and may hold images of the benchmark: unpack it, or name the "
            "folder of the images alone"
        )
    tables = [file for file, kind in kinds.items() if kind == "table"]
    check_shards(tables)
    yield from (file for file, kind in kinds.items() if kind == "image")
    passed = [file.name for file, kind in kinds.items() if kind == "text"]
    for file in tables:
        empty = True
        for row in table_rows(file):
            for image in encoded_in([row], file.parent):
                empty = False
                yield image
        if empty:
            passed.append(file.name)
    if passed:
        print(f"benchmarks: {path}: no images in {few(passed)}")


def few(names: Sequence[str]) -> str:
    """Up to three of `names`, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")


def table_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet or Arrow file, images as bytes. Raises UserError for a broken one."""
    from datasets import load_dataset

    try:
        rows = load_dataset(file.suffix[1:].lower(), data_files=str(file), split="train", streaming=True)
        yield from rows.decode(False)
    except Exception as error:  # datasets raises many kinds
        raise UserError(f"benchmarks: {file}: {one_line(error)}") from None


def encoded_in(values: Iterable[object], folder: Path) -> Iterator[Path | bytes]:
    """The images among a row's values, in lists and structures too: as bytes, as base64, or as files of `folder`."""
    for value in values:
        if isinstance(value, dict) and set(value) == {"bytes", "path"}:
            if value["bytes"] or value["path"]:
                yield value["bytes"] or folder / value["path"]
        elif isinstance(value, dict | list):
            yield from encoded_in(value.values() if isinstance(value, dict) else value, folder)
        elif isinstance(value, str) and value.startswith("data:image/"):
            yield base64.b64decode(value.partition(",")[2])
        elif isinstance(value, bytes) and name_format(value) in IMAGE_FORMATS:
            yield value


def read_benchmarks(folders: Sequence[Path], pixels: Pixels, distance: int) -> Benchmark | None:
    """The hashes of every image in `folders`; None without folders. Raises UserError for one that cannot be read."""
    if not folders:
        return None
    hashes: set[tuple[bytes, int]] = set()
    for folder in folders:
        try:
            images = tqdm(images_in(folder), desc=f"benchmark {folder.name}", unit="image")
            fitted = (fit(read_image(source)[0], pixels) for source in images)
            own = {(pixel_hash(image), perceptual_hash(image)) for image in fitted}
        except ImageError as error:
            raise UserError(f"benchmarks: {folder}: {error.detail}") from None
        if not own:
            raise UserError(f"benchmarks: {folder}: no images in it")
        hashes |= own
    exact = frozenset(digest for digest, _ in hashes)
    return Benchmark(exact, np.array(sorted({perceptual for _, perceptual in hashes}), dtype=np.uint64), distance)
