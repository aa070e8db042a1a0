"""Images on their way to the model: opened safely, and resized ONCE, by the one function that all stages share."""

from __future__ import annotations

import io
import math
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from spatial_edit_reward.errors import UserError
from spatial_edit_reward.spec import Pixels

# What is opened at all: more is no picture of an edit, and may be a decompression bomb.
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 10**6
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # MPO comes in by the door of JPEG
JPEG_QUALITY = 95
ORIENTATION = 0x0112


class ImageError(Exception):
    """An image that cannot be used. `kind`: image_missing, image_unreadable or image_too_large; `detail`: why."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


def read_picture(source: Path | bytes) -> tuple[Image.Image, bytes, bool]:
    """(picture upright as RGB, the file's bytes, whether those bytes decode to just these pixels) of a file or its content.

    Transparency is laid on white, 16 bits become 8, of an animation the first frame is taken. Raises ImageError.
    """
    content = source if isinstance(source, bytes) else read_bytes(source)
    if len(content) > MAX_BYTES:
        raise ImageError("image_too_large", f"{len(content):,} bytes, more than {MAX_BYTES:,}")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ImageError(
                    "image_too_large", f"{opened.width} x {opened.height} pixels, more than {MAX_PIXELS:,}"
                )
            plain = opened.mode == "RGB" and opened.format != "MPO" and getattr(opened, "n_frames", 1) == 1
            as_it_is = plain and opened.getexif().get(ORIENTATION, 1) == 1 and "transparency" not in opened.info
            opened.load()
            return as_rgb(ImageOps.exif_transpose(opened)), content, as_it_is
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ImageError("image_unreadable", " ".join(str(error).split())[:120]) from None


def read_bytes(file: Path) -> bytes:
    """The bytes of `file`, one more than MAX_BYTES at most. Raises ImageError where there are none."""
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise ImageError("image_missing", f"{file}: {error.strerror}") from None


def as_rgb(image: Image.Image) -> Image.Image:
    """`image` as RGB: transparency on white, 16 bits scaled to 8."""
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(deep >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def open_image(file: Path) -> Image.Image:
    """The picture in `file`, upright, as RGB. Raises UserError where it is missing or cannot be read."""
    if not file.exists():
        raise UserError(f"{file}: no such image")
    try:
        return read_picture(file)[0]
    except ImageError as error:
        raise UserError(f"{file}: not a readable image: {error.detail}") from None


def fitted_size(width: int, height: int, pixels: Pixels) -> tuple[int, int]:
    """The (width, height) nearest in shape whose sides are multiples of `pixels.multiple` and whose area is within limits.

    The rule is Qwen-VL's: round both sides; over `max`, scale down and round down; under `min`, scale up and round up.
    """
    step = pixels.multiple
    new_width, new_height = max(step, round(width / step) * step), max(step, round(height / step) * step)
    if new_width * new_height > pixels.max:
        scale = math.sqrt(width * height / pixels.max)
        new_width = max(step, math.floor(width / scale / step) * step)
        new_height = max(step, math.floor(height / scale / step) * step)
    elif new_width * new_height < pixels.min:
        scale = math.sqrt(pixels.min / (width * height))
        new_width = math.ceil(width * scale / step) * step
        new_height = math.ceil(height * scale / step) * step
    return new_width, new_height


def fit(image: Image.Image, pixels: Pixels) -> Image.Image:
    """`image` as RGB in its fitted size, so that the model's processor finds nothing to resize."""
    size = fitted_size(*image.size, pixels)
    image = as_rgb(image)
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def encode(image: Image.Image, store: str) -> bytes:
    """The bytes of `image` as "png", lossless, or "jpeg", which changes what `pq` judges."""
    buffer = io.BytesIO()
    if store == "png":
        image.save(buffer, "PNG", compress_level=1)  # three times as fast as the default, a tenth larger
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
