"""Endless, seeded groups of synthetic rows: one source and instruction, several candidate edits, `sc` and `pq` of each.

Group number i of a seed is always the same, on any machine and in any order, so a split is a range of numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from data.synthetic.degrade import LOSS_PER_LEVEL, degrade, perceptual_scores
from data.synthetic.edits import CANDIDATES, Candidate, Change, make_candidate, random_request, regions
from data.synthetic.scene import Scene, draw_scene, plain_background, random_scene
from data.synthetic.words import instruction, perceptual_rationale, semantic_rationale

CANDIDATES_PER_GROUP = 4


@dataclass(frozen=True)
class Photographs:
    """The user's own pictures, as backgrounds. `side` bounds the longer side in pixels."""

    files: tuple[Path, ...]
    side: int

    def background(self, rng: np.random.Generator) -> Image.Image:
        """A random photograph, upright, as RGB, shrunk to `side`."""
        with Image.open(self.files[int(rng.integers(len(self.files)))]) as photograph:
            picture = ImageOps.exif_transpose(photograph).convert("RGB")
        picture.thumbnail((self.side, self.side))
        return picture


def photographs(folder: Path, side: int) -> Photographs:
    """The PNG, JPEG and WebP files of `folder`. Raises FileNotFoundError where there are none."""
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"})
    if not files:
        raise FileNotFoundError(f"{folder}: no PNG, JPEG or WebP photograph in it")
    return Photographs(tuple(files), side)


def normalized(box: tuple[int, int, int, int], size: tuple[int, int]) -> list[int]:
    """A pixel box in the 0..1000 coordinates of a picture of `size` (width, height): round(px / side * 1000)."""
    width, height = size
    return [round(value / side * 1000) for value, side in zip(box, (width, height, width, height), strict=True)]


def edit_region(candidate: Candidate) -> list[dict[str, Any]]:
    """Every changed place of `candidate` as {id, label, bbox_2d}, in the order in which the rationale cites them."""
    places = [
        (label, normalized(box, candidate.scene.size)) for change in candidate.changes for label, box in regions(change)
    ]
    if candidate.background_changed:
        places.append(("background", [0, 0, 1000, 1000]))
    return [{"id": index, "label": label, "bbox_2d": box} for index, (label, box) in enumerate(places)]


def candidate_kinds(rng: np.random.Generator, requested: int) -> list[str]:
    """Kinds of a group's candidates: one "done" and three different others, in random order."""
    others = [kind for kind in CANDIDATES if kind != "done" and (requested > 1 or kind != "partial")]
    chosen = rng.choice(others, size=CANDIDATES_PER_GROUP - 1, replace=False)
    return [str(kind) for kind in rng.permutation(["done", *chosen])]


def random_group(
    rng: np.random.Generator, side: int, photos: Photographs | None
) -> tuple[Scene, tuple[Change, ...], list[Candidate]]:
    """A source scene, what is asked of it, and its candidates; scenes too full for their edits are drawn again."""
    while True:
        source = random_scene(rng, photos.background(rng) if photos else plain_background(rng, side))
        request = random_request(rng, source, 1 if rng.random() < 0.7 else 2)
        if request is None:
            continue
        made = [make_candidate(rng, kind, source, request) for kind in candidate_kinds(rng, len(request))]
        candidates = [candidate for candidate in made if candidate is not None]
        if len(candidates) == len(made):
            return source, request, candidates


def group_rows(seed: int, number: int, side: int, photos: Photographs | None = None) -> list[dict[str, Any]]:
    """The canonical rows of group `number`: an `sc` and a `pq` row for each of its candidates.

    `side`: side of a drawn picture in pixels. With `photos` the things are composited onto photographs instead.
    Half the candidates are damaged; a picture's damage is in both of its rows.
    """
    rng = np.random.default_rng([seed, number])
    source, request, candidates = random_group(rng, side, photos)
    source_picture, words = draw_scene(source), instruction(request)
    name = f"synthetic-{seed}-{number}"
    rows = []
    for index, candidate in enumerate(candidates):
        damage = str(rng.choice(list(LOSS_PER_LEVEL)))
        level = int(rng.integers(1, 5)) if rng.random() < 0.5 else 0
        edited = degrade(draw_scene(candidate.scene), damage, level, rng)
        shared = {"instruction": words, "group": name, "source": "synthetic"}
        rows.append(
            {
                "id": f"{name}-{index}-sc",
                "task": "sc",
                "images": [source_picture, edited],
                "reference": {
                    "edit_region": edit_region(candidate),
                    "score": candidate.scores(),
                    "reasoning": semantic_rationale(candidate),
                },
                **shared,
            }
        )
        rows.append(
            {
                "id": f"{name}-{index}-pq",
                "task": "pq",
                "images": [edited],
                "reference": {
                    "edit_region": None,
                    "score": perceptual_scores(damage, level),
                    "reasoning": perceptual_rationale(damage, level),
                },
                **shared,
            }
        )
    return rows
