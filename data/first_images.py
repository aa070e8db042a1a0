"""The first images of a source: of an archive those in its first 256 MB, where all of it would take hours."""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from data.cleaning.fixer import RowError
from data.cleaning.prepare import open_image
from data.readers.parts import Joined, find_parts, first_name
from data.readers.raw import ImageSource, Raw
from data.recipe import Source
from spatial_edit_reward.errors import UserError, one_line

SAMPLE = 2**28  # bytes of an archive that are read


class Archive(NamedTuple):
    """What was read of a source's tar parts: their first image's name, and whether they end within SAMPLE bytes."""

    first_name: str
    complete: bool


@contextmanager
def with_folder(source: Source) -> Iterator[tuple[Source, tuple[Path, ...]]]:
    """(`source` with an empty folder for its archive, so that rows are read without it, its tar parts); () without any."""
    parts = () if source.images is None or source.images.is_dir() else find_parts(source.images)
    with TemporaryDirectory() as folder:
        yield (source.model_copy(update={"images": Path(folder)}) if parts else source), parts


def extract(parts: tuple[Path, ...], source: Source, raws: Iterable[Raw]) -> Archive | None:
    """Writes the images of `raws` that lie in the first SAMPLE bytes of the archive into the source's folder.

    All of an archive would take hours. None without parts; raises UserError where they are no archive.
    """
    if not parts or source.images is None:
        return None
    names, joined = {name for raw in raws for name in paths_in(raw, source)}, Joined(parts)
    try:
        with tarfile.open(fileobj=joined, mode="r|*") as archive:  # type: ignore[call-overload]  # a part of a file's methods
            for member in archive:
                name = member.name.removeprefix("./")
                content = archive.extractfile(member) if name in names and member.isreg() else None
                if content:
                    (source.images / name).parent.mkdir(parents=True, exist_ok=True)
                    (source.images / name).write_bytes(content.read())
                if joined.tell() > SAMPLE:
                    return Archive(first_name(parts), complete=False)
    except (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{parts[0]} and the parts after it: {one_line(error)}") from None
    return Archive(first_name(parts), complete=True)


def paths_in(raw: Raw, source: Source) -> list[str]:
    """The paths of a row's images in its source's folder."""
    root = os.path.abspath(source.images or Path(source.path).parent)
    return [os.path.relpath(image, root) for image in raw.images if isinstance(image, Path)]


def image_error(image: ImageSource) -> str | None:
    """Why an image that is there cannot be read; None where it can."""
    try:
        open_image(image)
    except RowError as error:
        return None if error.kind == "image_missing" else f"{error.kind}: {error.detail}"
    return None


def same_pixels(some: Sequence[ImageSource], others: Sequence[ImageSource]) -> bool:
    """Whether the images of two rows have the same pixels."""
    try:
        return all(open_image(one)[0] == open_image(other)[0] for one, other in zip(some, others, strict=True))
    except RowError:
        return False
