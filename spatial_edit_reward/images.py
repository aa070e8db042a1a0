"""Images on their way to the model: opened safely, and resized ONCE, by the one function that all stages share."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from spatial_edit_reward.errors import UserError, one_line
from spatial_edit_reward.spec import MAX_PIXELS, Pixels

# What is opened at all: a larger file is no image of an edit, and may be a decompression bomb.
MAX_BYTES = 64 * 2**20
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # MPO, of some cameras, is read as JPEG
JPEG_QUALITY = 95
ORIENTATION = 0x0112  # the EXIF tag
# Qwen-VL's processor raises for an image whose one side is more than this many times the other.
MAX_ASPECT_RATIO = 200


class ImageError(Exception):
    """An image that cannot be used. `kind`: image_missing, image_unreadable or image_too_large; `detail`: why."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


def read_image(source: Path | bytes) -> tuple[Image.Image, bytes, bool]:
    """(image upright as RGB, the file's bytes, whether those bytes decode to just these pixels) of a file or its content.

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
    except ImageError:
        raise
    except UnidentifiedImageError:  # its own text holds a memory address
        raise ImageError("image_unreadable", f"not a file of {', '.join(FORMATS)}") from None
    except Exception as error:  # Pillow lets out whatever a damaged file leads it to, TypeError and struct.error too
        raise ImageError("image_unreadable", one_line(error, 120)) from None


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
