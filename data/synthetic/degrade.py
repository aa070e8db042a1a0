"""Graded damage to an image, and what each grade takes off its naturalness and artifact scores."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from spatial_edit_reward.schema import DEFAULT_SCORE_RANGE

# Points that one level (of 1..4) takes off (naturalness, artifacts), on the default score range of 0..25.
LOSS_PER_LEVEL: dict[str, tuple[int, int]] = {
    "noise": (3, 5),
    "blur": (5, 3),
    "blocking": (4, 6),
    "seams": (2, 4),
}
LEVEL_WORDS = ("no", "slight", "clear", "strong", "severe")


def degrade(image: Image.Image, kind: str, level: int, rng: np.random.Generator) -> Image.Image:
    """`image` with damage of `kind` (a key of LOSS_PER_LEVEL) at `level` 1..4, same size; level 0 changes nothing."""
    if level == 0:
        return image
    side = min(image.size)
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(0.6 * level * side / 64))
    if kind == "blocking":
        block = max(2, round((level + 1) * side / 64))
        small = (-(-image.width // block), -(-image.height // block))
        blocks = image.resize(small, Image.Resampling.BOX)
        large = blocks.resize((small[0] * block, small[1] * block), Image.Resampling.NEAREST)
        return large.crop((0, 0, *image.size))
    pixels = np.asarray(image).astype(np.float64)
    if kind == "noise":
        pixels = pixels + rng.normal(0, 9 * level, pixels.shape)
    elif kind == "seams":
        # Bands of shifted brightness with hard edges, as tiles of separately generated patches leave them.
        band = side // 4
        for start in range(0, image.width, 2 * band):
            pixels[:, start : start + band] += 9 * level
            pixels[:, start + band : start + 2 * band] -= 9 * level
    else:
        raise ValueError(f"unknown damage {kind!r}; known: {', '.join(LOSS_PER_LEVEL)}")
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def randomly_degraded(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """`image` with damage of a random kind and level."""
    return degrade(image, str(rng.choice(list(LOSS_PER_LEVEL))), int(rng.integers(1, 5)), rng)


def perceptual_scores(kind: str, level: int) -> list[float]:
    """[naturalness, artifacts] on the default score range: the best less the kind's loss for every level, never below 0."""
    low, high = DEFAULT_SCORE_RANGE
    return [max(low, high - loss * level) for loss in LOSS_PER_LEVEL[kind]]
