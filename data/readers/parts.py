"""Images straight from tar parts: `images_part_aa, images_part_ab, ...` read as the one archive that they were cut from."""

from __future__ import annotations

import string
import tarfile
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from data.templates import common_start
from spatial_edit_reward.errors import UserError


class Slice(NamedTuple):
    """`size` bytes from `offset` in the parts joined: one image."""

    parts: tuple[Path, ...]
    offset: int
    size: int

    def read(self) -> bytes:
        joined = _opened(self.parts)
        joined.seek(self.offset)
        return joined.read(self.size)


class Joined:
    """The files `parts`, one after another, as one file to `seek`, `tell` and `read`, which is what `tarfile` needs."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self.files = [part.open("rb") for part in parts]
        self.ends = list(accumulate(part.stat().st_size for part in parts))
        self.position = 0

    def seek(self, offset: int) -> None:
        self.position = offset

    def tell(self) -> int:
        return self.position

    def read(self, size: int) -> bytes:
        stop, content = min(self.position + size, self.ends[-1]), b""
        for file, start, end in zip(self.files, [0, *self.ends], self.ends, strict=False):
            if start <= self.position < min(stop, end):
                file.seek(self.position - start)
                content += file.read(min(stop, end) - self.position)
                self.position = min(stop, end)
        return content


# One set of open files in each process; the parts of a second source push out the first's.
@lru_cache(maxsize=2)
def _opened(parts: tuple[Path, ...]) -> Joined:
    return Joined(parts)


def find_parts(start: Path) -> tuple[Path, ...]:
    """The files whose names begin as `start` does, in order. Raises UserError where one between them is not there.

    Their names may differ in a number (`.000`, `.001`) or in letters counted as `split` does (`aa`, `ab`).
    """
    parts = sorted(file for file in start.parent.glob(f"{start.name}*") if file.is_file())
    names = [part.name for part in parts]
    before = common_start(names)
    ends = common_start([name.removeprefix(before)[::-1] for name in names])[::-1]
    after = ends.lstrip(string.ascii_letters + string.digits)  # as in 00001-of-00013; the 0 of 010 and 020 is counted
    counts = [_count(name.removeprefix(before).removesuffix(after)) for name in names]
    for index in range(1, len(parts)):
        previous = counts[index - 1]
        if previous is None or counts[index] != previous + 1:
            raise UserError(
                f"{start.parent}: {names[index]} does not follow {names[index - 1]}: a part of the archive is missing, "
                "or one of the two is no part"
            )
    return tuple(parts)


def _count(counter: str) -> int | None:
    """The number that a part's counter stands for, in digits or in letters; None for anything else."""
    if counter.isdecimal():
        return int(counter)
    if not (counter.isascii() and counter.isalpha()):
        return None
    number = 0
    for letter in counter.lower():
        number = number * 26 + ord(letter) - ord("a")
    return number


# Read twice, for the prompts and for the rows.
@lru_cache(maxsize=4)
def index_tar(parts: tuple[Path, ...]) -> dict[str, Slice]:
    """The regular files in the joined archive, by name without a leading "./". About 300 bytes of memory an image.

    Raises UserError where the parts are no uncompressed tar, or break off before the archive's end.
    """
    slices: dict[str, Slice] = {}
    try:
        joined = _opened(parts)
        with tarfile.open(fileobj=joined, mode="r:") as archive:  # type: ignore[call-overload]  # a part of a file's methods
            for member in tqdm(archive, desc="images in the tar parts", unit="file", delay=2):
                if member.isreg():
                    slices[member.name.removeprefix("./")] = Slice(parts, member.offset_data, member.size)
                archive.members = []  # tarfile would keep them all
        # tarfile takes anything that is no header for the end; the true one is a block of zeros.
        joined.seek(archive.offset)
        if joined.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"it breaks off after {list(slices)[-1] if slices else 'its start'}")
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{parts[0]} and the parts after it are no complete tar archive: {error}") from None
    return slices
