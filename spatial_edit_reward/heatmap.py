"""Heat maps over pictures."""

from __future__ import annotations

import matplotlib
import numpy as np
from PIL import Image

COLOURS = "inferno"


def with_heat(image: Image.Image, values: np.ndarray, side: int) -> Image.Image:
    """`image`, its longer side scaled to `side` pixels, under a map of `values` (rows, columns), each 0..1, cells unsmoothed.

    The brighter the colour, the higher the value; the picture shows through more where it is low.
    """
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    colours = (matplotlib.colormaps[COLOURS](values)[..., :3] * 255).astype(np.uint8)
    opacity = Image.fromarray((255 * (0.2 + 0.6 * values)).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    shown = image.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    return Image.composite(Image.fromarray(colours).resize(size, Image.Resampling.NEAREST), shown, opacity)
