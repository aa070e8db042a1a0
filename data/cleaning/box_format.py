"""The conventions for boxes that a source may declare, and whether a source's boxes are what it declares.

| format       | four numbers of a box                                    |
|---|---|
| `xyxy_1000`  | x1, y1, x2, y2 in thousandths of the sides (Qwen3-VL)    |
| `xyxy_1`     | the same as shares of the sides, 0 to 1                  |
| `xyxy_pixel` | the same in pixels of the edited image's file            |
| `xywh_pixel` | x, y, width, height in pixels (COCO)                     |
| `yxyx_1000`  | y1, x1, y2, x2 in thousandths (Gemini, under `box_2d`)   |

A box of one convention often is a possible box of another, so that single rows cannot show a wrong declaration. All boxes of
a source can: corners come in the wrong order, or no box reaches farther than the width of its own image. Which of x and y comes
first only images show (`data.cleaning.box_order`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from spatial_edit_reward.boxes import BOX_SCALE

BoxFormat = Literal["xyxy_1000", "xyxy_1", "xyxy_pixel", "xywh_pixel", "yxyx_1000"]
BOX_FORMATS: tuple[BoxFormat, ...] = get_args(BoxFormat)
DEFAULT: BoxFormat = "xyxy_1000"
PIXELS: tuple[BoxFormat, ...] = ("xyxy_pixel", "xywh_pixel")
SCALES: tuple[BoxFormat, ...] = ("xyxy_1", "xyxy_1000", "xyxy_pixel")
Size = tuple[int, int]
UNKNOWN: Size = (10**6, 10**6)  # of an image that is not there yet: no box reaches its end

ENOUGH = 20  # boxes of a source, for an error and not only a note
MOST_WRONG = 0.05  # share of boxes that are none in the declared format, where another one fits
MOST_SWAPPED = 0.1  # share of boxes whose corners are the wrong way round, whatever fits
NEARLY_ALL = 0.95  # share of boxes that fit the format that is named
TINY, MOSTLY_TINY = 1e-4, 0.9  # share of the image; share of a source's boxes
SLACK = 0.005  # of the scale


def scale_of(box_format: BoxFormat, size: Size) -> tuple[float, float]:
    """The numbers that stand for the right and the lower edge of an image of `size` (width, height) pixels."""
    if box_format.endswith("_pixel"):
        return size
    return (1.0, 1.0) if box_format == "xyxy_1" else (BOX_SCALE, BOX_SCALE)


def to_thousandths(box: Sequence[float], box_format: BoxFormat, size: Size = (0, 0)) -> list[float]:
    """The four numbers as x1, y1, x2, y2 in thousandths, rounded to whole ones but for `xyxy_1000`; in order or not.

    >>> to_thousandths([400, 300, 100, 80], "xywh_pixel", (800, 600))
    [500, 500, 625, 633]
    >>> to_thousandths([250, 125, 531, 406], "yxyx_1000")
    [125, 250, 406, 531]
    """
    x1, y1, x2, y2 = box
    if box_format == "xyxy_1000":
        return [x1, y1, x2, y2]
    if box_format == "xywh_pixel":
        x2, y2 = x1 + x2, y1 + y2
    if box_format == "yxyx_1000":
        x1, y1, x2, y2 = y1, x1, y2, x2
    width, height = scale_of(box_format, size)
    return [
        round(BOX_SCALE * corner / side) for corner, side in zip((x1, y1, x2, y2), (width, height) * 2, strict=True)
    ]


def fits(box: Sequence[float], box_format: BoxFormat, size: Size) -> bool:
    """Whether the four numbers are a box in `box_format`: within the image but for SLACK, corners in order."""
    width, height = scale_of(box_format, size)
    x1, y1, x2, y2 = (box[1], box[0], box[3], box[2]) if box_format == "yxyx_1000" else box
    if box_format == "xywh_pixel":
        x2, y2 = x1 + x2, y1 + y2
    slack_x, slack_y = SLACK * width, SLACK * height
    return -slack_x <= x1 < x2 <= width + slack_x and -slack_y <= y1 < y2 <= height + slack_y


def tells(corner: float, end: float, full: float) -> tuple[float, bool] | None:
    """(how much a box's far corner tells for a scale that stops at `end`, where the declared one goes on to `full`; alone).

    1 where that is hardly more than half of it. Else, for a corner in the last twentieth: how many corners are to be expected
    beyond the end for each such one. Only a corner right at the end tells something alone, without the other side: what
    stands in the middle of images may always stop there. None where the two ends are too near to each other.
    """
    if end >= 0.95 * full:
        return None
    if end <= 0.55 * full:
        return 1.0, True
    return (full - end) / (0.05 * end) if corner > 0.95 * end else 0.0, abs(corner - end) <= 0.001 * end


@dataclass
class BoxCounts:
    """Of a source's boxes, as its rows have them: how many fit each format, and what speaks against the declared one.

    Keys of `counts`: "boxes", "swapped", "tiny", "small_images", each format for the boxes that fit it; and, of the boxes that
    `tells` judges, (format, "boxes" | "fit") and for either side (format, "x") and (format, "x", "at its end"). Its size does
    not grow with the rows.
    """

    declared: BoxFormat
    counts: Counter[Any] = field(default_factory=Counter)
    example: str | None = None  # the first box that does not fit, or else the first

    def add(self, box: Sequence[float], size: Size, location: str) -> None:
        """Counts one box of an image of `size` (width, height) pixels."""
        fit = [name for name in BOX_FORMATS if fits(box, name, size)]
        if self.example is None or (self.wrong == 0 and self.declared not in fit):
            where = "" if size == UNKNOWN else f" in an image of {size[0]} x {size[1]} pixels"
            self.example = f"{location}: {list(box)}{where}"
        x1, y1, x2, y2 = to_thousandths(box, self.declared, size)
        self.counts.update(["boxes", *fit])
        self.counts["swapped"] += x2 < x1 or y2 < y1
        self.counts["tiny"] += abs(x2 - x1) * abs(y2 - y1) < TINY * BOX_SCALE**2
        self.counts["small_images"] += size[0] * size[1] < 0.9 * BOX_SCALE**2
        for name in SCALES:
            ends, full = scale_of(name, size), scale_of(self.declared, size)
            sides = [side for side in map(tells, box[2:], ends, full) if side is not None]
            if len(sides) == 1:
                sides = [(evidence if alone else 0.0, alone) for evidence, alone in sides] * 2
            if sides:
                self.counts.update({(name, "boxes"): 1, (name, "fit"): name in fit})
                for side, (evidence, _) in zip("xy", sides, strict=True):
                    self.counts.update({(name, side): evidence, (name, side, "at its end"): evidence > 0})

    def merge(self, other: BoxCounts) -> None:
        """Adds the counts of later rows."""
        if self.example is None or (self.wrong == 0 and other.wrong):
            self.example = other.example
        self.counts.update(other.counts)

    @property
    def wrong(self) -> int:
        """How many boxes do not fit the declared format."""
        return self.counts["boxes"] - self.counts[self.declared]

    @property
    def problem(self) -> str | None:
        """Why these are not boxes of the declared format, and what to declare; None where they may be.

        Fewer than ENOUGH boxes are judged alike, but prove nothing.
        """
        counts, boxes = self.counts, self.counts["boxes"]
        # Where both fit, boxes are of the smaller scale, which they do not leave.
        small = counts["small_images"] > boxes / 2
        order = ("xyxy_1", *PIXELS, "xyxy_1000") if small else ("xyxy_1", "xyxy_1000", *PIXELS)
        likely = next((name for name in order if counts[name] >= NEARLY_ALL * boxes), None)
        swapped = counts["swapped"] > MOST_SWAPPED * boxes
        if self.wrong > MOST_WRONG * boxes and (likely or swapped or self.wrong > boxes / 2):
            corners = (
                f", {counts['swapped']} of them with x2 < x1 or y2 < y1, as widths and heights would be"
                if counts["swapped"]
                else ""
            )
            return self._text(f"{self.wrong} of {boxes} boxes are none{corners}", likely)
        for name in SCALES:
            judged, fit = counts[name, "boxes"], counts[name, "fit"]
            evidence = [counts[name, side] for side in "xy"]
            at_end = min(counts[name, side, "at its end"] for side in "xy")
            needed = min(ENOUGH, boxes)
            enough = judged >= needed and sum(evidence) >= needed and min(evidence) >= needed / 4
            if boxes and enough and at_end >= 0.03 * judged and judged - fit <= 0.002 * judged:
                return self._text(f"{fit} of {judged} boxes end where those of {name} do", name)
        if counts["tiny"] > MOSTLY_TINY * boxes:
            return self._text(
                f"{counts['tiny']} of {boxes} boxes are smaller than a ten-thousandth of their image", None
            )
        return None

    def _text(self, reason: str, likely: str | None) -> str:
        advice = f"write `box_format: {likely}`" if likely else f"they look like none of {', '.join(BOX_FORMATS)}"
        return f"box_format {self.declared}: {reason}: {advice}; e.g. {self.example}"
