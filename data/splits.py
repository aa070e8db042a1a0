"""What the data stage makes: the recipe's splits, each a disjoint range of the generator's groups."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from datasets import Dataset
from pydantic import BaseModel, ConfigDict, Field

from data.images import fit
from data.rows import FEATURES, fault
from data.synthetic.generate import group_rows, photographs
from pipeline.errors import UserError
from verdict import Spec
from verdict.spec import Pixels

Count = Annotated[int, Field(gt=0)]


class Groups(BaseModel):
    """How many groups (a source and an instruction with four candidates, eight rows) each split gets."""

    model_config = ConfigDict(extra="forbid")
    train: Count
    validation: Count
    rl: Count
    heldout: Count


class DataRecipe(BaseModel):
    """`data.yaml`."""

    model_config = ConfigDict(extra="forbid")
    output_dir: Path
    seed: int = 0
    side: Annotated[int, Field(ge=32, description="side of a drawn picture, longest side of a photograph, in pixels")]
    photographs: Annotated[Path | None, Field(description="folder of pictures to composite on; null: drawn scenes")] = (
        None
    )
    groups: Groups
    pixels: Pixels
    max_new_tokens: Count


def rows_of(recipe: DataRecipe, spec: Spec, first: int, count: int) -> Iterator[dict[str, Any]]:
    """The rows of groups `first` to `first + count`, images fitted to the spec's pixel limits."""
    photos = photographs(recipe.photographs, recipe.side) if recipe.photographs else None
    for number in range(first, first + count):
        for row in group_rows(recipe.seed, number, recipe.side, photos):
            wrong = fault(row, spec)
            if wrong:
                raise UserError(f"row {row['id']!r}: {wrong}")
            yield {**row, "images": [fit(image, spec.pixels) for image in row["images"]]}


def summary(rows: Dataset) -> dict[str, int]:
    """Rows by task, and how many `sc` rows have a true region."""
    tasks = Counter(rows["task"])
    regions = [
        bool(ref["edit_region"]) for ref, task in zip(rows["reference"], rows["task"], strict=True) if task == "sc"
    ]
    return {"rows": len(rows), "sc": tasks["sc"], "pq": tasks["pq"], "sc_with_region": sum(regions)}


def make_splits(recipe: DataRecipe, spec: Spec, folder: Path) -> dict[str, dict[str, int]]:
    """Writes every split into `folder`; returns each one's summary."""
    report, first = {}, 0
    for split, count in recipe.groups:
        rows = Dataset.from_generator(
            rows_of,
            gen_kwargs={"recipe": recipe, "spec": spec, "first": first, "count": count},
            features=FEATURES,
            cache_dir=str(folder / "cache"),
            split=split,
        )
        rows.to_parquet(str(folder / f"{split}.parquet"))
        report[split] = summary(rows)
        first += count
    shutil.rmtree(folder / "cache")
    return report
