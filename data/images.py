"""Images on their way to the model: opened safely, and resized ONCE, by the one function that all stages share."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import UserError
from verdict.spec import Pixels


def open_image(file: Path) -> Image.Image:
    """The picture in `file`, upright, as RGB. Raises UserError where it is missing or cannot be read."""
    try:
        with Image.open(file) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except FileNotFoundError:
        raise UserError(f"{file}: no such image") from None
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        raise UserError(f"{file}: not a readable image: {error}") from None


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
    image = image.convert("RGB")
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
