"""Synthetic groups as public rows, so that they are checked, encoded and split like other data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from data.readers.raw import Raw
from data.recipe import SPLITS, DataRecipe, Split
from data.synthetic.generate import CANDIDATES_PER_GROUP, background_files, group_rows
from spatial_edit_reward import render
from spatial_edit_reward.images import encode

NAME = "synthetic"


def synthetic_chunks(recipe: DataRecipe, split: Split, size: int) -> Iterator[Callable[[], list[Raw]]]:
    """What draws the split's rows, at most `size` at once: a range of the generator's groups that no other split has."""
    counts = recipe.synthetic_groups
    first = sum(counts.get(earlier, 0) for earlier in SPLITS[: SPLITS.index(split)])
    groups = range(first, first + counts[split])
    step = size // (2 * CANDIDATES_PER_GROUP)
    for start in range(0, len(groups), step):
        yield partial(raw_rows, recipe, groups[start : start + step])


def raw_rows(recipe: DataRecipe, groups: range) -> list[Raw]:
    """The rows of `groups`, images as PNG files; the source's name is put before id and group later."""
    files = background_files(recipe.backgrounds) if recipe.backgrounds else None
    return [
        Raw(
            location=f"synthetic group {number}",
            id=row["id"].removeprefix(f"{NAME}-"),
            images=tuple(encode(image, "png") for image in row["images"]),
            task=row["task"],
            instruction=row["instruction"],
            verdict=render(row["task"], row["reference"]),
            group=row["group"].removeprefix(f"{NAME}-"),
        )
        for number in groups
        for row in group_rows(recipe.seed, number, recipe.image_size, files)
    ]
