"""One self-contained HTML page of cards: pictures, what was asked, what the model said, what it earned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from PIL import Image

from spatial_edit_reward.draw import PREDICTED_COLOR, TRUE_COLOR, Outline, data_uri, with_boxes
from spatial_edit_reward.parser import parse_or_none

TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)


@dataclass(frozen=True)
class Card:
    """One completion on one row: `pictures` are data URIs, `figures` are shown as name and value."""

    title: str
    instruction: str
    pictures: list[str]
    completion: str
    expected: str
    figures: dict[str, str]

    @classmethod
    def of(
        cls,
        row: Mapping[str, Any],
        images: Sequence[Image.Image],
        completion: str,
        expected: str,
        figures: Mapping[str, float | None],
    ) -> Card:
        """The card of a canonical row: true and predicted boxes drawn on the edited picture, the last of `images`."""
        true = [Outline(TRUE_COLOR, region["bbox_2d"]) for region in row["reference"]["edit_region"] or ()]
        verdict = parse_or_none(completion, row["task"])
        regions = verdict.edit_region if verdict else None
        found = [Outline(PREDICTED_COLOR, box) for _, box in drawable_boxes(regions)]
        pictures = [with_boxes(image, ()) for image in images[:-1]] + [with_boxes(images[-1], true + found)]
        shown = {name: "–" if value is None else f"{value:.2f}" for name, value in figures.items()}
        return cls(row["id"], row["instruction"], [data_uri(p) for p in pictures], completion, expected, shown)


def drawable_boxes(regions: Sequence[Any] | None) -> list[tuple[int, list[float]]]:
    """(place in the list, box) of each region whose box can be drawn: four numbers, corners in order, clamped to 0..1000."""
    boxes = [region.get("bbox_2d") if isinstance(region, dict) else None for region in regions or ()]
    return [
        (place, [min(max(float(value), 0.0), 1000.0) for value in box])
        for place, box in enumerate(boxes)
        if isinstance(box, list)
        and len(box) == 4
        and all(isinstance(value, (int, float)) and abs(value) < 1e6 for value in box)
        and box[0] <= box[2]
        and box[1] <= box[3]
    ]


def render_page(template: str, file: Path, **content: Any) -> None:
    """Writes `template` (in gallery/templates) filled with `content`; the box colours are always there."""
    page = TEMPLATES.get_template(template).render(true_color=TRUE_COLOR, predicted_color=PREDICTED_COLOR, **content)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page)
