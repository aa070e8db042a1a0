"""Endless, seeded groups of synthetic rows: one source and instruction, several candidate edits, `sc` and `pq` of each.

Group number i of a seed is always the same, on any machine and in any order, so a split is a range of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from data.synthetic.degrade import LOSS_PER_LEVEL, degrade, perceptual_scores
from data.synthetic.edits import CANDIDATES, Candidate, Change, make_candidate, random_request, regions
from data.synthetic.scene import Scene, draw_scene, plain_background, random_scene
from data.synthetic.words import instruction, perceptual_rationale, semantic_rationale
from spatial_edit_reward.boxes import BOX_SCALE
from spatial_edit_reward.errors import UserError

CANDIDATES_PER_GROUP = 4


def background_files(folder: Path) -> list[Path]:
    """The PNG, JPEG and WebP files of `folder`, sorted. Raises UserError where there are none."""
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"})
    if not files:
        raise UserError(f"backgrounds: {folder}: no PNG, JPEG or WebP file in it")
    return files


def random_background(rng: np.random.Generator, files: Sequence[Path], image_size: int) -> Image.Image:
    """A random one of `files`, upright, as RGB, its longer side shrunk to `image_size` pixels."""
    with Image.open(files[int(rng.integers(len(files)))]) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    image.thumbnail((image_size, image_size))
    return image


def normalized(box: tuple[int, int, int, int], size: tuple[int, int]) -> list[int]:
    """A pixel box in the 0..1000 coordinates of an image of `size` (width, height): round(px / side * 1000)."""
    width, height = size
    return [round(value / side * BOX_SCALE) for value, side in zip(box, (width, height, width, height), strict=True)]


def edit_region(candidate: Candidate) -> list[dict[str, Any]]:
    """Every changed region of `candidate` as {id, label, bbox_2d}, in the order in which the rationale cites them."""
    boxes = [
        (label, normalized(box, candidate.scene.size)) for change in candidate.changes for label, box in regions(change)
    ]
    if candidate.background_changed:
        boxes.append(("background", [0, 0, BOX_SCALE, BOX_SCALE]))
    return [{"id": index, "label": label, "bbox_2d": box} for index, (label, box) in enumerate(boxes)]


def candidate_kinds(rng: np.random.Generator, num_requested: int) -> list[str]:
    """Kinds of a group's candidates: one "done" and three different others, in random order."""
    others = [kind for kind in CANDIDATES if kind != "done" and (num_requested > 1 or kind != "partial")]
    chosen = rng.choice(others, size=CANDIDATES_PER_GROUP - 1, replace=False)
    return [str(kind) for kind in rng.permutation(["done", *chosen])]


def random_group(
    rng: np.random.Generator, image_size: int, backgrounds: Sequence[Path] | None
) -> tuple[Scene, tuple[Change, ...], list[Candidate]]:
    """A source scene, a request for one or two changes, and its candidates; a scene too full for them is drawn again."""
    while True:
        background = (
            random_background(rng, backgrounds, image_size) if backgrounds else plain_background(rng, image_size)
        )
        source = random_scene(rng, background)
        request = random_request(rng, source, 1 if rng.random() < 0.7 else 2)
        if request is None:
            continue
        made = [make_candidate(rng, kind, source, request) for kind in candidate_kinds(rng, len(request))]
        candidates = [candidate for candidate in made if candidate is not None]
        if len(candidates) == len(made):
            return source, request, candidates


def group_rows(
    seed: int, number: int, image_size: int, backgrounds: Sequence[Path] | None = None
) -> list[dict[str, Any]]:
    """The canonical rows of group `number`, PIL images in them: an `sc` and a `pq` row for each of its candidates.

    `image_size`: side of a drawn image in pixels. With `backgrounds`, image files, the items are composited onto these.
    Half the candidates are damaged; an image's damage is in both of its rows.
    """
    rng = np.random.default_rng([seed, number])
    source, request, candidates = random_group(rng, image_size, backgrounds)
    source_image = draw_scene(source)
    name = f"synthetic-{seed}-{number}"
    shared = {"instruction": instruction(request), "group": name, "source": "synthetic"}
    rows = []
    for index, candidate in enumerate(candidates):
        damage = str(rng.choice(list(LOSS_PER_LEVEL)))
        level = int(rng.integers(1, 5)) if rng.random() < 0.5 else 0
        edited = degrade(draw_scene(candidate.scene), damage, level, rng)
        semantic = {
            "edit_region": edit_region(candidate),
            "score": candidate.scores(),
            "reasoning": semantic_rationale(candidate),
        }
        perceptual = {
            "edit_region": None,
            "score": perceptual_scores(damage, level),
            "reasoning": perceptual_rationale(damage, level),
        }
        for task, images, reference in (("sc", [source_image, edited], semantic), ("pq", [edited], perceptual)):
            rows.append(
                {"id": f"{name}-{index}-{task}", "task": task, "images": images, "reference": reference, **shared}
            )
    return rows
