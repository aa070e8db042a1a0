"""One self-contained HTML page of cards: images, what was asked, what the model wrote, what it earned. Needs jinja2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from PIL import Image

from spatial_edit_reward.boxes import BOX_SCALE, Box, finite_number, valid_box
from spatial_edit_reward.draw import PREDICTED_COLOR, TRUE_COLOR, Outline, data_uri, draw_boxes
from spatial_edit_reward.parser import parse_or_none

TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)


@dataclass(frozen=True)
class Card:
    """One completion on one row: `images` are data URIs, `figures` are shown as name and value."""

    title: str
    instruction: str | None
    images: list[str]
    completion: str
    expected: str
    figures: dict[str, str]

    @classmethod
    def from_row(
        cls,
        row: Mapping[str, Any],
        images: Sequence[Image.Image],
        completion: str,
        expected: str,
        figures: Mapping[str, float | None],
    ) -> Card:
        """The card of a canonical row: true and predicted boxes drawn on the edited image, the last of `images`."""
        outlines = [Outline(TRUE_COLOR, region["bbox_2d"]) for region in row["reference"]["edit_region"] or ()]
        verdict = parse_or_none(completion, row["task"])
        regions = verdict.edit_region if verdict else None
        outlines += [Outline(PREDICTED_COLOR, box) for _, box in drawable_boxes(regions)]
        drawn = [draw_boxes(image, ()) for image in images[:-1]] + [draw_boxes(images[-1], outlines)]
        shown = {name: "-" if value is None else f"{value:.2f}" for name, value in figures.items()}
        return cls(row["id"], row["instruction"], [data_uri(image) for image in drawn], completion, expected, shown)


def drawable_boxes(regions: Sequence[Any] | None) -> list[tuple[int, Box]]:
    """(index of the region, its box) of each region whose box can be drawn: a valid one, once clamped to the image."""
    boxes = []
    for i, region in enumerate(regions or ()):
        corners = region.get("bbox_2d") if isinstance(region, dict) else None
        numbers = [finite_number(corner) for corner in corners] if isinstance(corners, list) else []
        clamped = [None if number is None else min(max(number, 0.0), float(BOX_SCALE)) for number in numbers]
        if (box := valid_box({"bbox_2d": clamped})) is not None:
            boxes.append((i, box))
    return boxes


def render_page(template: str, file: Path, **content: Any) -> None:
    """Writes the page `template`, one of templates/, filled with `content` and the colors of the boxes, into `file`."""
    page = TEMPLATES.get_template(template).render(true_color=TRUE_COLOR, predicted_color=PREDICTED_COLOR, **content)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")
