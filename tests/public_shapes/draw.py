"""Drawn edits that look a little like photographs: numbered groups of candidates, the same for a seed on any machine."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data.synthetic.generate import group_rows
from spatial_edit_reward import Spec, aggregate
from spatial_edit_reward.spec import Pixels

SIZE = (512, 768)  # pixels: the shorter and the longer side of an image
SMALL = (64, 96)
SPEC = Spec(pixels=Pixels(min=256, max=4096, multiple=16), max_new_tokens=320)  # only its aggregation is used


class Candidate(NamedTuple):
    """One edit: its JPEG, and the references of both tasks as `data.synthetic` draws them."""

    jpeg: bytes
    size: tuple[int, int]
    sc: dict[str, Any]
    pq: dict[str, Any]

    @property
    def overall(self) -> float:
        return aggregate(self.sc["score"], self.pq["score"], SPEC)


class Group(NamedTuple):
    """A source, an instruction, and four candidates."""

    number: int
    instruction: str
    source: bytes
    candidates: tuple[Candidate, ...]


def background(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Blurred blobs with grain, which no other group has: landscape, portrait or square."""
    short, long = size
    width, height = ((long, short), (short, long), (short, short))[int(rng.integers(3))]
    blobs = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    pixels = np.asarray(blobs).astype(np.int16) + rng.integers(-12, 13, (height, width, 3), dtype=np.int16)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92)
    return file.getvalue()


def worded(instruction: str, number: int) -> str:
    """The instruction, now and then in a form that files of many sources hold: quotes, a price, two lines, Chinese."""
    forms = {
        3: f'{instruction[:-1]}, and let the sign read "$20 off".',
        7: f"{instruction}\nKeep everything else as it is.",
        11: f"请按要求编辑图片：{instruction}",
    }
    return forms.get(number % 20, instruction)


@lru_cache(maxsize=64)
def draw_group(seed: int, number: int, size: tuple[int, int] = SIZE) -> Group:
    """Group `number` of `seed`, its images in JPEG, sides of `size` pixels."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "background.bmp"
        background(np.random.default_rng([seed, number, 1]), size).save(file)
        rows = group_rows(seed, number, max(size), [file])
    candidates = tuple(
        Candidate(jpeg(sc["images"][1]), sc["images"][1].size, sc["reference"], pq["reference"])
        for sc, pq in zip(rows[::2], rows[1::2], strict=True)
    )
    return Group(number, worded(rows[0]["instruction"], number), jpeg(rows[0]["images"][0]), candidates)


def draw_edits(seed: int, first: int, count: int, size: tuple[int, int] = SIZE) -> Iterator[tuple[Group, Candidate]]:
    """`count` edits of the groups from number `first` on: one of each group, a second of every third."""
    number = first
    while count > 0:
        group = draw_group(seed, number, size)
        for candidate in group.candidates[: min(count, 1 + (number % 3 == 0))]:
            yield group, candidate
            count -= 1
        number += 1
