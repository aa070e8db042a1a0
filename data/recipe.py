"""`data.yaml`: the sources to read, the synthetic groups to draw, and how rows are checked, stored and split."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from data.cleaning.box_format import BoxFormat
from data.cleaning.fixer import Policy, policies
from spatial_edit_reward.schema import DEFAULT_SCORE_RANGE
from spatial_edit_reward.spec import Bounds, Pixels, Prompts, Spec

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
    """One public file or dataset, and the splits that its rows may fall to, by share of its connected components.

    Args:
        layout: A name in `data.readers.READERS`.
        path: The file; for `editreward` and `datasets` also a folder or a Hub name.
        images: The folder of its images, or the start of the tar parts' names; null: beside the file.
        subset: The split of a `datasets` dataset that is read.
        score_range: Of its scores; they are rescaled to the recipe's.
        box_format: How its boxes are written; null: as ours, `xyxy_1000` under the key `bbox_2d`.
        subsample: The share of its groups that is read, drawn by the recipe's seed.
    """

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    layout: str
    path: str
    images: Path | None = None
    subset: str = "train"
    columns: Columns | None = None
    score_range: Bounds = DEFAULT_SCORE_RANGE
    box_format: BoxFormat | None = None
    subsample: Annotated[float, Field(gt=0, le=1)] = 1.0
    splits: Annotated[dict[Split, Share], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits_its_reader(self) -> Self:
        from data.readers import READERS  # they are written for a Source

        if self.layout not in READERS:
            raise ValueError(f"layout {self.layout!r} is not one of {', '.join(READERS)}")
        if getattr(READERS[self.layout], "TAKES_COLUMNS", False) != (self.columns is not None):
            raise ValueError("layout datasets needs `columns`, and no other layout takes them")
        return self


class Subsample(Strict):
    """What share of a split's rows of a kind is kept, 0..1: failed edits (`sc` rows without a region), and `pq` rows."""

    failed: Annotated[float, Field(ge=0, le=1)] = 1.0
    pq: Annotated[float, Field(ge=0, le=1)] = 1.0


class DataRecipe(Strict):
    """`data.yaml`: `sources`, or `synthetic_groups`, or both.

    Args:
        synthetic_groups: How many groups each split gets: a source and an instruction with four candidates, eight rows.
        subsample: Shares of a split's rows that are kept; all by default.
        image_size: Side of a drawn image, or longest side of a background, in pixels.
        backgrounds: Folder of images to draw on; null: plain ones.
        tokenizer: Folder with a `tokenizer.json`, to count tokens in the report.
        prompts: The model's prompts, with $instruction, $low and $high; this project's own by default.
        prompt_from: Source whose prompts train; null: `prompts`.
        score_range: Of the scores that the model gives.
        policy: Kind of error in a row -> fix, drop or fail, over the defaults in `data.cleaning.fixer.KINDS`.
        max_dropped: The share of a source's rows that may be dropped for an error; from there on the stage fails.
        box_tolerance: How far out of 0..1000 a box is clamped and not dropped.
        image_format: Of resized images; png is lossless.
        benchmarks: Folders whose images must not be trained on.
        hash_distance: Bits of 64 that a look-alike of these may differ in.
    """

    output_dir: Path
    seed: int = 0
    sources: list[Source] = []
    synthetic_groups: dict[Split, Count] = {}
    subsample: dict[Split, Subsample] = {}
    image_size: Annotated[int, Field(ge=32)] = 64
    backgrounds: Path | None = None
    pixels: Pixels
    max_new_tokens: Count
    tokenizer: Path | None = None
    prompts: Prompts = {}
    prompt_from: str | None = None
    score_range: Bounds = DEFAULT_SCORE_RANGE
    policy: Annotated[dict[str, Policy], Field(validate_default=True)] = {}
    max_dropped: Annotated[float, Field(ge=0, le=1)] = 0.5
    box_tolerance: Annotated[float, Field(ge=0)] = 5.0
    image_format: Literal["png", "jpeg"] = "png"
    benchmarks: list[Path] = []
    hash_distance: Annotated[int, Field(ge=0, le=64)] = 4
    processes: Count = os.cpu_count() or 1

    @field_validator("policy")
    @classmethod
    def _for_every_kind(cls, changes: dict[str, Policy]) -> dict[str, Policy]:
        return policies(changes)

    @model_validator(mode="after")
    def _has_rows_and_prompts(self) -> Self:
        if not self.sources and not self.synthetic_groups:
            raise ValueError("nothing to make rows of: give sources or synthetic_groups")
        if self.prompt_from is not None and self.prompts:
            raise ValueError("give prompts or prompt_from, not both")
        if self.prompt_from is not None and self.prompt_from not in {source.name for source in self.sources}:
            raise ValueError(f"prompt_from: there is no source {self.prompt_from!r}")
        return self

    def spec(self) -> Spec:
        """The spec of the recipe's rows, but for prompts that come from its data (`prompt_from`)."""
        spec = Spec(pixels=self.pixels, max_new_tokens=self.max_new_tokens, score_range=self.score_range)
        return spec.model_copy(update={"prompts": {**spec.prompts, **self.prompts}})
