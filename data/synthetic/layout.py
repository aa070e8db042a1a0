"""Drawn groups written as a public layout, SpatialReward-Train's, so that they come in through its reader like other data."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.images import encode
from data.recipe import SPLITS, DataRecipe, Source
from data.synthetic.generate import group_rows, photographs
from verdict import Spec

NAME = "synthetic"


def write_group(recipe: DataRecipe, number: int, folder: Path) -> list[dict[str, Any]]:
    """Writes the pictures of group `number` into `folder/images`; returns its rows with paths for `images`."""
    photos = photographs(recipe.photographs, recipe.side) if recipe.photographs else None
    rows = group_rows(recipe.seed, number, recipe.side, photos)
    for row in rows:
        edited = f"images/{row['id'].removesuffix('-' + row['task'])}.png"
        names = [f"images/{row['group']}.png", edited] if row["task"] == "sc" else [edited]
        for name, picture in zip(names, row["images"], strict=True):
            if not (folder / name).exists():
                (folder / name).write_bytes(encode(picture, "png"))
        row["images"] = names
    return rows


def write_layout(recipe: DataRecipe, spec: Spec, folder: Path) -> list[Source]:
    """Writes every split's groups, disjoint ranges of the generator's, as `SPLIT.jsonl` into `folder`; returns the sources."""
    from data.writers import swift_row  # loads `datasets`, which the processes that draw do not need

    assert recipe.groups is not None
    (folder / "images").mkdir(parents=True)
    sources, first = [], 0
    counts = recipe.groups.model_dump()
    with (
        ProcessPoolExecutor(recipe.processes, mp_context=get_context("spawn")) as pool,
        tqdm(total=sum(counts.values()), desc="drawing", unit="group") as bar,
    ):
        for split in SPLITS:
            file = folder / f"{split}.jsonl"
            numbers = range(first, first + counts[split])
            with file.open("w") as out:
                for rows in pool.map(write_group, repeat(recipe), numbers, repeat(folder), chunksize=8):
                    for row in rows:
                        shared = {key: row[key].removeprefix(f"{NAME}-") for key in ("id", "group")}
                        line = {
                            **shared,
                            "solution": row["task"],
                            "instruction": row["instruction"],
                            **swift_row(row, row["images"], spec),
                        }
                        out.write(json.dumps(line, ensure_ascii=False) + "\n")
                    bar.update()
            sources.append(Source(name=NAME, layout="spatialreward", path=str(file), splits={split: 1.0}))
            first += counts[split]
    return sources
