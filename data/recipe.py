"""`data.yaml`: the sources to read, the drawn groups to make, and how rows are validated, stored and split."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from data.cleaning.fixer import Policy, policies
from spatial_edit_reward import Task
from spatial_edit_reward.spec import Pixels, Prompt

Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0)]
Split = Literal["train", "validation", "rl", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "validation", "rl", "heldout")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Columns(Strict):
    """Which column of a `datasets` dataset is what; `images` and `score` may name several, in order."""

    images: str | list[str]
    id: str | None = None
    task: str | None = None
    prompt: str | None = None
    instruction: str | None = None
    verdict: str | None = None
    score: str | list[str] | None = None
    group: str | None = None


class Source(Strict):
    """One public file or dataset, and the splits that its rows may fall to, by share of its connected components."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    layout: Literal["spatialreward", "editscore", "editreward", "sharegpt", "datasets"]
    path: Annotated[str, Field(description="the file; for editreward and datasets also a folder or a Hub name")]
    images: Annotated[
        Path | None, Field(description="folder, or start of the tar parts' names; null: beside the file")
    ] = None
    subset: Annotated[str, Field(description="the split of a `datasets` dataset that is read")] = "train"
    columns: Columns | None = None
    score_range: Annotated[tuple[float, float], Field(description="of its scores; rescaled to 0..25")] = (0.0, 25.0)
    splits: Annotated[dict[Split, Share], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.layout == "datasets") != (self.columns is not None):
            raise ValueError("layout datasets needs `columns`, and no other layout takes them")
        if self.score_range[0] >= self.score_range[1]:
            raise ValueError("score_range must rise")
        return self


class Groups(Strict):
    """How many drawn groups (a source and an instruction with four candidates, eight rows) each split gets."""

    train: Count
    validation: Count
    rl: Count
    heldout: Count


class Kept(Strict):
    """What share of a split's rows of a kind is kept, 0..1: failed edits (`sc` rows without a region), and `pq` rows."""

    failed: Annotated[float, Field(ge=0, le=1)] = 1.0
    pq: Annotated[float, Field(ge=0, le=1)] = 1.0


class DataRecipe(Strict):
    """`data.yaml`: `sources`, or `groups` of drawn ones, or both."""

    output_dir: Path
    seed: int = 0
    sources: list[Source] = []
    groups: Groups | None = None
    keep: Annotated[dict[Split, Kept], Field(description="shares of a split's rows that are kept; all by default")] = {}
    side: Annotated[
        int, Field(ge=32, description="side of a drawn picture, longest side of a photograph, in pixels")
    ] = 64
    photographs: Annotated[Path | None, Field(description="folder of pictures to composite on; null: drawn scenes")] = (
        None
    )
    pixels: Pixels
    max_new_tokens: Count
    tokenizer: Annotated[
        Path | None, Field(description="folder with a tokenizer.json, to count tokens in the report")
    ] = None
    prompts: Annotated[
        dict[Task, Prompt],
        Field(description="what is asked, with $instruction, $low, $high; this project's own by default"),
    ] = {}
    prompt_from: Annotated[str | None, Field(description="source whose prompts train; null: `prompts`")] = None
    policy: Annotated[dict[str, Policy], Field(description="kind of fault -> fix, drop or fail (data/faults.py)")] = {}
    box_tolerance: Annotated[float, Field(ge=0, description="how far out of 0..1000 a box is clamped, not dropped")] = (
        5.0
    )
    store: Annotated[Literal["png", "jpeg"], Field(description="codec of resized images; png is lossless")] = "png"
    benchmarks: Annotated[list[Path], Field(description="folders whose images must not be trained on")] = []
    hash_distance: Annotated[int, Field(ge=0, le=64, description="bits of 64 that a look-alike may differ in")] = 4
    processes: Count = os.cpu_count() or 1

    @field_validator("policy")
    @classmethod
    def _known(cls, changes: dict[str, Policy]) -> dict[str, Policy]:
        return policies(changes)

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.sources and self.groups is None:
            raise ValueError("nothing to make rows of: give sources, or groups to draw")
        if self.prompt_from is not None and self.prompts:
            raise ValueError("give prompts or prompt_from, not both")
        if self.prompt_from is not None and self.prompt_from not in {source.name for source in self.sources}:
            raise ValueError(f"prompt_from: there is no source {self.prompt_from!r}")
        return self
