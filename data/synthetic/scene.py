"""Scenes of drawn items whose boxes are known to the pixel: the ground truth that every synthetic edit starts from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 98, 210),
    "yellow": (240, 200, 30),
    "purple": (140, 50, 170),
    "orange": (250, 125, 15),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross")

# Items are drawn this many times larger and averaged down, so that their edges are smooth.
SUPERSAMPLING = 4

PixelBox = tuple[int, int, int, int]


@dataclass(frozen=True)
class Item:
    """One drawn item. `box` is (x1, y1, x2, y2) in pixels, right and bottom exclusive; its width equals its height."""

    color: str
    shape: str
    box: PixelBox

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """A background image with items on it, in drawing order. No two items share a name or overlap."""

    background: Image.Image
    items: tuple[Item, ...]

    @property
    def size(self) -> tuple[int, int]:
        return self.background.size


def shape_mask(shape: str, side: int) -> Image.Image:
    """Coverage mask ("L", side x side pixels) of `shape`, touching all four sides of its box."""
    large = side * SUPERSAMPLING
    mask = Image.new("L", (large, large), 0)
    draw = ImageDraw.Draw(mask)
    end = large - 1
    if shape == "circle":
        draw.ellipse((0, 0, end, end), fill=255)
    elif shape == "square":
        draw.rectangle((0, 0, end, end), fill=255)
    elif shape == "triangle":
        draw.polygon(((end / 2, 0), (end, end), (0, end)), fill=255)
    elif shape == "diamond":
        draw.polygon(((end / 2, 0), (end, end / 2), (end / 2, end), (0, end / 2)), fill=255)
    elif shape == "cross":
        third = large / 3
        draw.rectangle((third, 0, end - third, end), fill=255)
        draw.rectangle((0, third, end, end - third), fill=255)
    else:
        raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
    return mask.resize((side, side), Image.Resampling.BOX)


def draw_scene(scene: Scene) -> Image.Image:
    """The scene as an RGB image of the background's size."""
    image = scene.background.copy()
    for item in scene.items:
        x1, y1, x2, _ = item.box
        image.paste(COLORS[item.color], (x1, y1), shape_mask(item.shape, x2 - x1))
    return image


def plain_background(rng: np.random.Generator, side: int) -> Image.Image:
    """A square of `side` pixels in a pale or a dark neutral tint with a slight vertical gradient."""
    tone = rng.uniform(205, 245) if rng.random() < 0.5 else rng.uniform(25, 70)
    tint = tone + rng.uniform(-10, 10, size=3)
    slope = np.linspace(-0.5, 0.5, side)[:, None, None] * rng.uniform(-20, 20)
    pixels = np.broadcast_to(tint + slope, (side, side, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def free_box(rng: np.random.Generator, scene: Scene, side: int) -> PixelBox | None:
    """A random box of `side` pixels that keeps clear of the scene's items; None if 40 tries find none."""
    width, height = scene.size
    others = [item.box for item in scene.items]
    gap = max(1, min(width, height) // 32)
    for _ in range(40):
        x = int(rng.integers(0, width - side + 1))
        y = int(rng.integers(0, height - side + 1))
        if all(
            x + side + gap <= x1 or x2 + gap <= x or y + side + gap <= y1 or y2 + gap <= y for x1, y1, x2, y2 in others
        ):
            return (x, y, x + side, y + side)
    return None


def random_side(rng: np.random.Generator, scene: Scene) -> int:
    """An item's side in pixels: 20 to 38 % of the scene's shorter side."""
    return round(min(scene.size) * rng.uniform(0.20, 0.38))


def new_name(rng: np.random.Generator, taken: set[str]) -> tuple[str, str]:
    """A random (color, shape) whose name is not in `taken`."""
    free = [(c, s) for c in COLORS for s in SHAPES if f"{c} {s}" not in taken]
    return free[int(rng.integers(len(free)))]


def random_scene(rng: np.random.Generator, background: Image.Image) -> Scene:
    """Two to four items on `background`, as many as find room."""
    scene = Scene(background, ())
    for _ in range(int(rng.integers(2, 5))):
        color, shape = new_name(rng, {item.name for item in scene.items})
        box = free_box(rng, scene, random_side(rng, scene))
        if box is not None:
            scene = Scene(background, (*scene.items, Item(color, shape, box)))
    return scene
