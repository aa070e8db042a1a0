"""Pictures for a page: enlarged, boxes drawn on them, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw

TRUE_COLOUR = "#00e5ff"
FOUND_COLOUR = "#ff2d95"
SHOWN_SIDE = 224


def with_boxes(image: Image.Image, boxes: Iterable[tuple[str, Sequence[float]]]) -> Image.Image:
    """`image` scaled to a longer side of SHOWN_SIDE pixels, with each (colour, 0..1000 box) outlined, earlier ones below."""
    scale = SHOWN_SIDE / max(image.size)
    filter_ = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    shown = image.convert("RGB").resize((round(image.width * scale), round(image.height * scale)), filter_)
    draw = ImageDraw.Draw(shown)
    for colour, (x1, y1, x2, y2) in boxes:
        left, top = x1 / 1000 * shown.width, y1 / 1000 * shown.height
        right, bottom = x2 / 1000 * shown.width - 1, y2 / 1000 * shown.height - 1
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline="black", width=4)
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=2)
    return shown


def data_uri(image: Image.Image) -> str:
    """`image` as a PNG data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
