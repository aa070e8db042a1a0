"""Drawn groups written as a public layout, SpatialReward-Train's, so that they come in through its reader like other data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.recipe import SPLITS, DataRecipe, Source
from data.synthetic.generate import background_files, group_rows
from spatial_edit_reward import Spec
from spatial_edit_reward.images import encode

NAME = "synthetic"


def write_group(recipe: DataRecipe, number: int, folder: Path) -> list[dict[str, Any]]:
    """Writes the pictures of group `number` into `folder/images`; returns its rows with paths for `images`."""
    photos = background_files(recipe.photographs) if recipe.photographs else None
    rows = group_rows(recipe.seed, number, recipe.side, photos)
    for row in rows:
        edited = f"images/{row['id'].removesuffix('-' + row['task'])}.png"
        names = [f"images/{row['group']}.png", edited] if row["task"] == "sc" else [edited]
        for name, picture in zip(names, row["images"], strict=True):
            if not (folder / name).exists():
                (folder / name).write_bytes(encode(picture, "png"))
        row["images"] = names
    return rows


def line(row: dict[str, Any], spec: Spec) -> dict[str, Any]:
    """A row with paths for `images` as SpatialReward-Train has it; its reader puts the source's name before id and group."""
    from data.writers import swift_row  # loads `datasets`, which the processes that draw do not need

    return {
        "id": row["id"].removeprefix(f"{NAME}-"),
        "group": row["group"].removeprefix(f"{NAME}-"),
        "solution": row["task"],
        "instruction": row["instruction"],
        **swift_row(row, row["images"], spec),
    }


def write_layout(recipe: DataRecipe, spec: Spec, folder: Path) -> list[Source]:
    """Writes every split's groups, disjoint ranges of the generator's, as `SPLIT.jsonl` into `folder`; returns the sources."""
    assert recipe.groups is not None
    (folder / "images").mkdir(parents=True)
    sources, first = [], 0
    counts = recipe.groups.model_dump()
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=sum(counts.values()), desc="drawing", unit="group"))
        draw: Callable[..., Iterator[list[dict[str, Any]]]] = map
        if recipe.processes > 1:
            pool = ProcessPoolExecutor(recipe.processes, mp_context=get_context("spawn"))
            draw = partial(stack.enter_context(pool).map, chunksize=8)
        for split in SPLITS:
            file = folder / f"{split}.jsonl"
            numbers = range(first, first + counts[split])
            with file.open("w") as out:
                for rows in draw(write_group, repeat(recipe), numbers, repeat(folder)):
                    out.writelines(json.dumps(line(row, spec), ensure_ascii=False) + "\n" for row in rows)
                    bar.update()
            sources.append(Source(name=NAME, layout="spatialreward", path=str(file), splits={split: 1.0}))
            first += counts[split]
    return sources
