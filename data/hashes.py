"""Pictures by their pixels: the exact hash that ties rows together, and look-alikes of a benchmark's pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from pyarrow import parquet
from tqdm import tqdm

from spatial_edit_reward.errors import UserError
from spatial_edit_reward.images import ImageError, fit, read_picture
from spatial_edit_reward.spec import Pixels

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def pixel_hash(picture: Image.Image) -> bytes:
    """16 bytes that are the same for the same RGB pixels in the same size."""
    return hashlib.blake2b(picture.tobytes(), digest_size=16, salt=b"%dx%d" % picture.size).digest()


def perceptual_hash(picture: Image.Image) -> int:
    """imagehash's 64-bit perceptual hash: look-alikes (other codec, other size) differ in a few bits."""
    import imagehash  # a second to import, and needed only where there are benchmarks

    return int(str(imagehash.phash(picture)), 16)


class Benchmark(NamedTuple):
    """The pictures that must not be trained on, after the same fit as every row's."""

    exact: frozenset[bytes]
    perceptual: np.ndarray
    distance: int

    def overlap(self, picture: Image.Image, digest: bytes) -> str | None:
        """ "exact", or "perceptual" where a picture differs in at most `distance` of 64 bits; None where none is alike."""
        if digest in self.exact:
            return "exact"
        if len(self.perceptual):
            bits = np.bitwise_count(self.perceptual ^ np.uint64(perceptual_hash(picture)))
            if int(bits.min()) <= self.distance:
                return "perceptual"
        return None


def pictures_in(folder: Path) -> Iterator[Path | bytes]:
    """Every picture below `folder`: image files, and those in Parquet files, in whatever column. Raises UserError for none."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in {*SUFFIXES, ".parquet"})
    if not files:
        raise UserError(f"benchmarks: {folder}: no pictures and no Parquet files in it")
    for file in files:
        if file.suffix == ".parquet":
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=16):
                for row in batch.to_pylist():
                    yield from encoded_in(list(row.values()))
        else:
            yield file


def encoded_in(values: Sequence[object]) -> Iterator[bytes]:
    """The `bytes` of the images among a row's values, one deep in lists too."""
    for value in values:
        if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
            yield value["bytes"]
        elif isinstance(value, list):
            yield from encoded_in(value)


def read_benchmarks(folders: Sequence[Path], pixels: Pixels, distance: int) -> Benchmark | None:
    """The hashes of every picture in `folders`; None without folders. Raises UserError for one that cannot be read."""
    if not folders:
        return None
    exact, perceptual = set(), set()
    for folder in folders:
        for source in tqdm(pictures_in(folder), desc=f"benchmark {folder.name}", unit="image"):
            try:
                picture = fit(read_picture(source)[0], pixels)
            except ImageError as error:
                raise UserError(f"benchmarks: {folder}: {error.detail}") from None
            exact.add(pixel_hash(picture))
            perceptual.add(perceptual_hash(picture))
    return Benchmark(frozenset(exact), np.array(sorted(perceptual), dtype=np.uint64), distance)
