"""Graded damage to a picture, and what each grade takes off its naturalness and artifact scores."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

# Points that one level (of 1..4) takes off (naturalness, artifacts), both of 25.
LOSS_PER_LEVEL: dict[str, tuple[int, int]] = {
    "noise": (3, 5),
    "blur": (5, 3),
    "blocking": (4, 6),
    "seams": (2, 4),
}
LEVEL_WORDS = ("no", "slight", "clear", "strong", "severe")


def degrade(picture: Image.Image, kind: str, level: int, rng: np.random.Generator) -> Image.Image:
    """`picture` with damage of `kind` (a key of LOSS_PER_LEVEL) at `level` 1..4, same size; level 0 changes nothing."""
    if level == 0:
        return picture
    side = min(picture.size)
    pixels = np.asarray(picture).astype(np.float64)
    if kind == "noise":
        pixels = pixels + rng.normal(0, 9 * level, pixels.shape)
    elif kind == "blur":
        return picture.filter(ImageFilter.GaussianBlur(0.6 * level * side / 64))
    elif kind == "blocking":
        block = max(2, round((level + 1) * side / 64))
        small = (-(-picture.width // block), -(-picture.height // block))
        large = picture.resize(small, Image.Resampling.BOX).resize(
            (small[0] * block, small[1] * block), Image.Resampling.NEAREST
        )
        return large.crop((0, 0, *picture.size))
    elif kind == "seams":
        # Bands of shifted brightness with hard edges, as tiles of separately generated patches leave them.
        band = side // 4
        for start in range(0, picture.width, 2 * band):
            pixels[:, start : start + band] += 9 * level
            pixels[:, start + band : start + 2 * band] -= 9 * level
    else:
        raise ValueError(f"unknown damage {kind!r}; known: {', '.join(LOSS_PER_LEVEL)}")
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def randomly_degraded(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """`picture` with damage of a random kind and level."""
    return degrade(picture, str(rng.choice(list(LOSS_PER_LEVEL))), int(rng.integers(1, 5)), rng)


def perceptual_scores(kind: str, level: int) -> list[float]:
    """[naturalness, artifacts], 0..25 each: 25 less the kind's loss for every level, never below 0."""
    naturalness, artifacts = LOSS_PER_LEVEL[kind]
    return [float(max(0, 25 - naturalness * level)), float(max(0, 25 - artifacts * level))]
