"""Images straight from tar parts: `images_part_aa, images_part_ab, ...` read as the one archive that they were cut from."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

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


class Joined(io.RawIOBase):
    """The files `parts`, one after another, as one seekable file."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self.files = [part.open("rb") for part in parts]
        self.starts = [0]
        for part in parts:
            self.starts.append(self.starts[-1] + part.stat().st_size)
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.starts[-1]}[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def read(self, size: int | None = -1) -> bytes:
        end = self.starts[-1] if size is None or size < 0 else min(self.position + size, self.starts[-1])
        pieces = []
        for file, start, stop in zip(self.files, self.starts, self.starts[1:], strict=False):
            if start <= self.position < stop and self.position < end:
                file.seek(self.position - start)
                pieces.append(file.read(min(end, stop) - self.position))
                self.position = min(end, stop)
        return b"".join(pieces)

    def close(self) -> None:
        for file in self.files:
            file.close()
        super().close()


# One set of open files in each process; the parts of a second source push out the first's.
@lru_cache(maxsize=2)
def _opened(parts: tuple[Path, ...]) -> Joined:
    return Joined(parts)


# Read twice, for the prompts and for the rows.
@lru_cache(maxsize=4)
def index(parts: tuple[Path, ...]) -> dict[str, Slice]:
    """The regular files in the joined archive, by name without a leading "./". About 300 bytes of memory an image.

    Raises UserError where the parts are no uncompressed tar, or break off.
    """
    names: dict[str, Slice] = {}
    try:
        with Joined(parts) as joined, tarfile.open(fileobj=joined, mode="r:") as archive:
            for member in tqdm(archive, desc="images in the tar parts", unit="file", delay=2):
                if member.isreg():
                    if member.offset_data + member.size > joined.starts[-1]:
                        raise tarfile.ReadError(f"{member.name} is cut off")
                    names[member.name.removeprefix("./")] = Slice(parts, member.offset_data, member.size)
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{parts[0]} and the parts after it are no whole tar archive: {error}") from None
    return names
