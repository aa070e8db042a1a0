"""Images straight from tar parts: `images_part_aa, images_part_ab, ...` read as the one archive that they were cut from.

A compressed archive cannot be read from the middle: it is unpacked once into a plain tar beside its parts, which is read so.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import re
import shutil
import string
import tarfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from data.templates import common_start
from spatial_edit_reward.errors import UserError, one_line
from spatial_edit_reward.images import name_format

BLOCK = 2**20
SHARD = re.compile(r"(.*?)(\d+)-of-(\d+)(.*)")
# How a compressed file begins -> what reads it.
COMPRESSED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
ADVICE = (
    "download its parts again (`hf download` fetches what is missing), or unpack it and name the folder in `images:`"
)


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

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            size = self.ends[-1]
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
                f"{start.parent}: {names[index]} does not follow {names[index - 1]}: download the part between them, or move "
                "away the one that is no part of the archive"
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


def check_shards(files: Iterable[Path]) -> None:
    """Raises UserError where `files` lack one of the shards that their names count, as in `train-00001-of-00004.parquet`."""
    shards: dict[tuple[Path, str, int, str], set[int]] = {}
    for file in files:
        if match := SHARD.fullmatch(file.name):
            before, number, total, after = match.groups()
            shards.setdefault((file.parent, before, int(total), after), set()).add(int(number))
    for (folder, before, total, after), numbers in shards.items():
        missing = sorted(set(range(total)) - numbers)
        if missing and numbers != set(range(1, total + 1)):
            raise UserError(
                f"{folder}: {before}{missing[0]:05}-of-{total:05}{after} is missing ({len(numbers)} of {total} are there): "
                "download it again (`hf download` fetches what is missing)"
            )


def unpacked(parts: tuple[Path, ...]) -> tuple[Path, ...]:
    """`parts`, or the plain tar `unpacked/NAME-STATE.tar` beside them where they are a compressed one.

    It is made once for the parts as they are, as large as they are, in one pass and with memory for a block. What a stopped
    pass left is read again beside the archive and kept where it is right. Raises UserError where it cannot be made.
    """
    joined = _opened(parts)
    joined.seek(0)
    start = joined.read(8)
    reader = next((reader for magic, reader in COMPRESSED.items() if start.startswith(magic)), None)
    if reader is None:
        return parts
    states = [(part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
    name, state = parts[0].name, hashlib.blake2b(repr(states).encode(), digest_size=4).hexdigest()
    folder, size = parts[0].parent / "unpacked", joined.ends[-1]
    tar, partial = folder / f"{name}-{state}.tar", folder / f"{name}.tar.partial"
    if tar.exists():
        return (tar,)
    print(f"{parts[0]}: a compressed archive of {size / 1e9:,.1f} GB, which is unpacked once into {tar}")
    try:
        folder.mkdir(exist_ok=True)
        partial.touch()
        missing = size - partial.stat().st_size - shutil.disk_usage(folder).free
        if missing > 0:
            raise OSError(f"{missing / 1e9:,.1f} GB more are needed on this disk")
        joined.seek(0)
        with (
            reader(joined) as packed,
            partial.open("r+b") as written,
            tqdm(total=size, desc=f"unpacking {name}", unit="B", unit_scale=True, delay=2) as bar,
        ):
            while block := packed.read(BLOCK):
                position = written.tell()
                if written.read(len(block)) != block:
                    written.seek(position)
                    written.write(block)
                bar.update(joined.tell() - bar.n)
            written.truncate()
        for old in folder.glob(f"{name}-*.tar"):  # of the parts as they were
            old.unlink()
        with suppress(FileNotFoundError):  # another stage, which wrote the same, was faster
            partial.rename(tar)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(
            f"{parts[0]} and the parts after it cannot be unpacked: {one_line(error)}: {ADVICE} "
            f"(`cat {parts[0]} ... | tar xzf - -C FOLDER`)"
        ) from None
    return (tar,)


def first_name(parts: tuple[Path, ...]) -> str:
    """The name of the first image in the archive, packed or not, without reading on. Raises UserError where there is none."""
    joined = _opened(parts)
    joined.seek(0)
    try:
        with tarfile.open(fileobj=joined, mode="r|*") as archive:  # type: ignore[call-overload]  # a part of a file's methods
            return next(member.name.removeprefix("./") for member in archive if member.isreg())
    except (OSError, EOFError, StopIteration, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{parts[0]}: no tar archive begins there: {one_line(error)}: {ADVICE}") from None


# Read twice, for the prompts and for the rows.
@lru_cache(maxsize=4)
def index_tar(parts: tuple[Path, ...]) -> dict[str, Slice]:
    """The regular files in the joined archive, by name without a leading "./". About 300 bytes of memory an image.

    Raises UserError where the parts are no tar, break off before the archive's end, or go on after it.
    """
    slices: dict[str, Slice] = {}
    read = unpacked(parts)
    joined = _opened(read)
    try:
        joined.seek(0)
        with tarfile.open(fileobj=joined, mode="r:") as archive:  # type: ignore[call-overload]  # a part of a file's methods
            for member in tqdm(archive, desc="images in the tar parts", unit="file", delay=2):
                if member.isreg():
                    slices[member.name.removeprefix("./")] = Slice(read, member.offset_data, member.size)
                elif member.islnk() and member.linkname.removeprefix("./") in slices:  # a file with two names
                    slices[member.name.removeprefix("./")] = slices[member.linkname.removeprefix("./")]
                archive.members = []  # tarfile would keep them all
        # tarfile takes anything that is no header for the end; the true one is two blocks of zeros, and zeros after them.
        joined.seek(archive.offset)
        if joined.read(2 * tarfile.BLOCKSIZE) != bytes(2 * tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"it breaks off after {list(slices)[-1] if slices else 'its start'}")
        while block := joined.read(BLOCK):
            if block.strip(b"\0"):
                part = read[sum(end < joined.tell() for end in joined.ends)].name
                raise tarfile.ReadError(f"after its end something else follows, up to {part}")
    except (OSError, tarfile.TarError) as error:
        joined.seek(0)
        start = joined.read(tarfile.BLOCKSIZE)
        reason = error if start[257:262] == b"ustar" else name_format(start) or error
        raise UserError(f"{parts[0]} and the parts after it are no complete tar archive: {reason}: {ADVICE}") from None
    return slices
