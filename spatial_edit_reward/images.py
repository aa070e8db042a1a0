"""Images on their way to the model: opened safely, and resized ONCE, by the one function that all stages share."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from spatial_edit_reward.errors import UserError, one_line
from spatial_edit_reward.spec import MAX_PIXELS, Pixels

# What is opened at all: a larger file is no image of an edit, and may be a decompression bomb.
MAX_BYTES = 64 * 2**20
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # MPO, of some cameras, is read as JPEG
# How a file of a format begins: (offset, bytes, what it is), the first that fits.
SIGNATURES = (
    (0, b"\x89PNG", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (8, b"WEBP", "WebP"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"version https://git-lfs", "a git-lfs pointer (`git lfs pull` fetches the image)"),
    (4, b"ftypavi", "AVIF, which is not read"),
    (4, b"ftyphe", "HEIC, which is not read"),
    (4, b"ftypmif1", "HEIC, which is not read"),
    (4, b"ftyp", "a video"),
    (4, b"JXL ", "JPEG XL, which is not read"),
    (0, b"\xff\x0a", "JPEG XL, which is not read"),
    (4, b"jP  ", "JPEG 2000, which is not read"),
    (0, b"8BPS", "PSD, which is not read"),
    (0, b"%PDF", "PDF"),
    (0, b"PK\3\4", "a zip archive"),
    (0, b"\x1f\x8b", "gzip"),
)
BESIDE_PIXELS = 2**16  # bytes of a file that say other things of an image: its color profile, its camera
IMAGE_FORMATS = {"PNG", "JPEG", "WebP", "GIF", "BMP", "TIFF"}  # of these, what `read_image` reads
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
JPEG_QUALITY = 95
ORIENTATION = 0x0112  # the EXIF tag
# Qwen-VL's processor raises for an image whose one side is more than this many times the other.
MAX_ASPECT_RATIO = 200


class ImageError(Exception):
    """An image that cannot be used. `kind`: image_missing, bad_image or image_too_large; `detail`: why."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


def read_image(source: Path | bytes) -> tuple[Image.Image, bytes, bool]:
    """(image upright as RGB, the file's bytes, whether those bytes hold just these pixels) of a file or its content.

    Transparency is laid on white, 16 bits become 8, of an animation the first frame is taken. Of a PNG that cannot be read
    for its texts (whole workflows of megabytes, which Pillow refuses) the bytes come without them. Raises ImageError.
    """
    content = source if isinstance(source, bytes) else read_bytes(source)
    if len(content) > MAX_BYTES:
        raise ImageError("image_too_large", f"{len(content):,} bytes, more than {MAX_BYTES:,}")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            check_size(*opened.size)
            if opened.format == "TIFF" and opened.mode in ("F", "I"):  # 0..1, 0..255, heights: white is not known
                raise ImageError("bad_image", f"TIFF: pixels of 32 bits (mode {opened.mode}), not of 8 or 16")
            small = len(content) <= 4 * opened.width * opened.height + BESIDE_PIXELS
            plain = small and opened.mode == "RGB" and opened.format != "MPO" and getattr(opened, "n_frames", 1) == 1
            as_it_is = plain and opened.getexif().get(ORIENTATION, 1) == 1 and "transparency" not in opened.info
            opened.load()
            return as_rgb(ImageOps.exif_transpose(opened)), content, as_it_is
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("image_too_large", one_line(error, 120)) from None
    except Exception as error:  # Pillow lets out whatever a damaged file leads it to, TypeError and struct.error too
        bare = without_texts(content)
        if len(bare) < len(content):
            return read_image(bare)
        unknown = isinstance(error, UnidentifiedImageError)  # its own text holds a memory address
        reason = "" if unknown else f": {one_line(error, 120) or type(error).__name__}"
        kind = name_format(content) or f"not a file of {', '.join(FORMATS)}"
        raise ImageError("bad_image", f"{kind}{reason}") from None


def check_size(width: int, height: int) -> None:
    """Raises ImageError for an image of so many pixels a side that no model takes."""
    if width * height > MAX_PIXELS:
        raise ImageError("image_too_large", f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height) or not width:
        raise ImageError("bad_image", f"{width} x {height} pixels: one side is over {MAX_ASPECT_RATIO} times the other")


def without_texts(content: bytes) -> bytes:
    """A PNG without the texts in it, which say nothing of its pixels; any other content as it is."""
    if not content.startswith(b"\x89PNG"):
        return content
    kept, start = [content[:8]], 8
    while start < len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4])
        if content[start + 4 : start + 8] not in PNG_TEXTS:
            kept.append(content[start:end])
        start = end
    return b"".join(kept)


def name_format(content: bytes) -> str | None:
    """What a file that cannot be read is, by how it begins; None where that says nothing.

    >>> name_format(b"<!DOCTYPE html><html>404")
    'a web page or XML'
    """
    head = content[:1024]
    for offset, signature, name in SIGNATURES:
        if head.startswith(signature, offset):
            return name
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "SVG, which is not read" if b"<svg" in head.lower() else "a web page or XML"
    if not head.strip(b"\0"):
        return "an empty file" if not content else "a file of zeros"
    return None


def read_bytes(file: Path) -> bytes:
    """The bytes of `file`, one more than MAX_BYTES at most. Raises ImageError where there are none."""
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have, with half a character in it
        link = "a link that leads nowhere" if os.path.islink(file) else None
        raise ImageError("image_missing", f"{file}: {link or getattr(error, 'strerror', error)}") from None


def as_rgb(image: Image.Image) -> Image.Image:
    """`image` as RGB: transparency on white, 16 bits scaled to 8."""
    if image.mode.startswith("I"):
        return Image.fromarray(np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def open_image(file: Path) -> Image.Image:
    """The image in `file`, upright, as RGB. Raises UserError where it is missing or cannot be read."""
    if not file.exists():
        raise UserError(f"{file}: no such image")
    try:
        return read_image(file)[0]
    except ImageError as error:
        raise UserError(f"{file}: not a readable image: {error.detail}") from None


def fitted_size(width: int, height: int, pixels: Pixels) -> tuple[int, int]:
    """The (width, height) nearest in shape whose sides are multiples of `pixels.multiple` and whose area is within limits.

    The rule is `smart_resize` of Qwen-VL's processor: round both sides; over `max`, scale down and round down; under `min`,
    scale up and round up. Only a strip so thin that its short side would round to nothing keeps `multiple` there and gives
    up its shape: its long side is cut to what `max` and MAX_ASPECT_RATIO allow, where the processor would resize again, or
    raise. `max` has to be some times `min`: rounding needs room.

    >>> limits = Pixels(min=65_536, max=262_144, multiple=32)
    >>> fitted_size(1024, 768, limits), fitted_size(100, 100, limits), fitted_size(20_000, 8, limits)
    ((576, 416), (256, 256), (6400, 32))
    """
    step = pixels.multiple
    new_width, new_height = max(step, round(width / step) * step), max(step, round(height / step) * step)
    if new_width * new_height > pixels.max:
        scale = math.sqrt(width * height / pixels.max)
        new_height = max(step, math.floor(height / scale / step) * step)
        new_width = min(math.floor(width / scale / step) * step, pixels.max // new_height // step * step)
        new_width = max(step, new_width)
        new_height = min(new_height, pixels.max // new_width // step * step)
    elif new_width * new_height < pixels.min:
        scale = math.sqrt(pixels.min / (width * height))
        new_width = math.ceil(width * scale / step) * step
        new_height = math.ceil(height * scale / step) * step
    longest = MAX_ASPECT_RATIO * min(new_width, new_height)
    return min(new_width, longest), min(new_height, longest)


def fit(image: Image.Image, pixels: Pixels) -> Image.Image:
    """`image` as RGB in its fitted size, so that the model's processor has nothing to resize."""
    size = fitted_size(*image.size, pixels)
    image = as_rgb(image)
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def encode(image: Image.Image, codec: Literal["png", "jpeg"]) -> bytes:
    """The bytes of `image` as "png", lossless, or "jpeg", which changes what `pq` judges."""
    buffer = io.BytesIO()
    if codec == "png":
        image.save(buffer, "PNG", compress_level=1)  # three times as fast as the default, a tenth larger
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
