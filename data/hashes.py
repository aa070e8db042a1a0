"""Images by their pixels: the exact hash that ties rows together, and look-alikes of a benchmark's images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from spatial_edit_reward.errors import UserError, one_line
from spatial_edit_reward.images import ImageError, fit, read_image
from spatial_edit_reward.spec import Pixels

IMAGE_FILES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
TABLES = {".parquet", ".arrow"}
# What may hold a benchmark's images and is not read: passed over, its images would be trained on without a word.
NOT_READ = {".jsonl", ".csv", ".tsv", ".tar", ".zip", ".gz", ".tgz", ".zst", ".7z", ".lmdb", ".h5", ".npy", ".npz"}
NOT_READ |= {".avif", ".heic", ".svg"}


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


def images_in(folder: Path) -> Iterator[Path | bytes]:
    """Every image below `folder`: image files, and those in Parquet and Arrow files, in whatever column.

    Raises UserError for none, and where the folder holds files with data that are not read.
    """
    files = sorted(file for file in folder.rglob("*") if ".cache" not in file.parts)
    unread = [file.name for file in files if file.suffix.lower() in NOT_READ]
    if unread:
        raise UserError(
            f"benchmarks: {folder}: {unread[0]}{f' and {len(unread) - 1} more' if unread[1:] else ''} cannot be read, and "
            "may hold images of the benchmark: unpack it, or name the folder of the images alone"
        )
    if not any(file.suffix.lower() in IMAGE_FILES | TABLES for file in files):
        raise UserError(f"benchmarks: {folder}: no images and no Parquet or Arrow files in it")
    for file in files:
        if file.suffix.lower() in IMAGE_FILES:
            yield file
        elif file.suffix.lower() in TABLES:
            for row in table_rows(file):
                yield from encoded_in(list(row.values()))


def table_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet or Arrow file, images as bytes. Raises UserError for a broken one."""
    from datasets import load_dataset

    try:
        rows = load_dataset(file.suffix[1:].lower(), data_files=str(file), split="train", streaming=True)
        yield from rows.decode(False)
    except Exception as error:  # datasets raises many kinds
        raise UserError(f"benchmarks: {file}: {one_line(error)}") from None


def encoded_in(values: Sequence[object]) -> Iterator[bytes]:
    """The `bytes` of the images among a row's values, in lists and structures too."""
    for value in values:
        if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
            yield value["bytes"]
        elif isinstance(value, dict | list):
            yield from encoded_in(list(value.values()) if isinstance(value, dict) else value)


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
            raise UserError(f"benchmarks: {folder}: its files hold no image")
        hashes |= own
    exact = frozenset(digest for digest, _ in hashes)
    return Benchmark(exact, np.array(sorted({perceptual for _, perceptual in hashes}), dtype=np.uint64), distance)
