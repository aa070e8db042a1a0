"""Draws docs/images/verdicts.png from a finished demo: one source, three edits of it, and the merged model's verdict on each.

python docs/images/make_figure.py [runs/tiny] [docs/images/verdicts.png]
"""

from __future__ import annotations

import io
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow.parquet
from PIL import Image, ImageDraw, ImageFont

from spatial_edit_reward import aggregate, load_spec, parse
from spatial_edit_reward.draw import PREDICTED_COLOR, Outline, draw_boxes

# Held-out candidates of one source: the edit asked for, the same with a changed background, one that changed nothing.
CANDIDATES = ("synthetic-0-956-3", "synthetic-0-956-1", "synthetic-0-956-0")
SIDE, GAP, SCALE = 256, 20, 2  # pixels of a panel and between panels; everything is drawn at SCALE times that
TEXT_HEIGHT = 196
INK, GRAY, PAPER = "#1f2328", "#59636e", "#ffffff"


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * SCALE)


def read_rows(run: Path) -> dict[str, dict[str, Any]]:
    """The `sc` rows of CANDIDATES by id, with decoded images."""
    table = pyarrow.parquet.read_table(run / "data" / "heldout.parquet", filters=[("task", "=", "sc")])
    rows = {row["id"].removesuffix("-sc"): row for row in table.to_pylist()}
    for name in CANDIDATES:
        rows[name]["images"] = [Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image in rows[name]["images"]]
    return {name: rows[name] for name in CANDIDATES}


def read_completions(run: Path) -> dict[str, str]:
    lines = (run / "eval" / "merged.jsonl").read_text(encoding="utf-8").split("\n")
    return {answer["id"]: answer["completion"] for answer in map(json.loads, filter(None, lines))}


def main(run: Path, output: Path) -> None:
    spec = load_spec(run / "data")
    rows, completions = read_rows(run), read_completions(run)
    width, height = (4 * SIDE + 5 * GAP) * SCALE, (SIDE + TEXT_HEIGHT + 2 * GAP) * SCALE
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)

    def panel(column: int, image: Image.Image, title: str, lines: list[tuple[str, str]]) -> None:
        left, top = (GAP + column * (SIDE + GAP)) * SCALE, 2 * GAP * SCALE
        draw.text((left, (GAP // 2) * SCALE), title, fill=INK, font=font(15))
        canvas.paste(image, (left, top))
        draw.rectangle((left, top, left + image.width - 1, top + image.height - 1), outline=GRAY)
        y = top + (SIDE + 10) * SCALE
        for text, color in lines:
            for line in textwrap.wrap(text, 38):
                draw.text((left, y), line, fill=color, font=font(13))
                y += 18 * SCALE
            y += 4 * SCALE

    source = rows[CANDIDATES[0]]
    panel(
        0,
        draw_boxes(source["images"][0], [], SIDE * SCALE),
        "Source",
        [
            (f'Instruction: "{source["instruction"]}"', INK),
            ("The model answers for each edit with boxes, a text that cites them, and scores from 0 to 25.", GRAY),
            ("R ranks the edits.", GRAY),
        ],
    )
    for column, name in enumerate(CANDIDATES, start=1):
        sc, pq = (parse(completions[f"{name}-{task}"], task) for task in ("sc", "pq"))
        regions = sc.edit_region or []
        boxes = [Outline(PREDICTED_COLOR, region["bbox_2d"], str(region["id"])) for region in reversed(regions)]
        labels = ", ".join(f"{region['id']} {region['label']}" for region in regions)
        reward = aggregate(sc.score, pq.score, spec)
        panel(
            column,
            draw_boxes(rows[name]["images"][1], boxes, SIDE * SCALE),
            f"Edit {column}:  R = {reward:.2f}",
            [
                (f"edit_region: {labels or 'none'}", INK),
                (f"reasoning: {sc.reasoning}", GRAY),
                (f"sc score: success {sc.score[0]:g}, over-editing {sc.score[1]:g}", INK),
                (f"pq score: naturalness {pq.score[0]:g}, artifacts {pq.score[1]:g}", INK),
            ],
        )
    canvas.quantize(128).save(output, optimize=True)
    print(f"{output}: {canvas.width} x {canvas.height}, {output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    arguments = [Path(argument) for argument in sys.argv[1:]]
    main(*(arguments + [Path("runs/tiny"), Path("docs/images/verdicts.png")][len(arguments) :]))
