"""`data.yaml`: the sources to read, the synthetic groups to draw, and how rows are checked, stored and split."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from data.cleaning.fixer import Policy, policies
from data.readers import READERS
from spatial_edit_reward import Task
from spatial_edit_reward.schema import DEFAULT_SCORE_RANGE
from spatial_edit_reward.spec import Bounds, Pixels, Prompt, Spec

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
    layout: Annotated[str, Field(description=f"one of {', '.join(READERS)}")]
    path: Annotated[str, Field(description="the file; for editreward and datasets also a folder or a Hub name")]
    images: Annotated[
        Path | None, Field(description="folder, or start of the tar parts' names; null: beside the file")
    ] = None
    subset: Annotated[str, Field(description="the split of a `datasets` dataset that is read")] = "train"
    columns: Columns | None = None
    score_range: Annotated[Bounds, Field(description="of its scores; rescaled to the recipe's")] = DEFAULT_SCORE_RANGE
    splits: Annotated[dict[Split, Share], Field(min_length=1)]

    @field_validator("layout")
    @classmethod
    def _known(cls, layout: str) -> str:
        if layout not in READERS:
            raise ValueError(f"not one of {', '.join(READERS)}")
        return layout

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if READERS[self.layout].takes_columns != (self.columns is not None):
            raise ValueError("layout datasets needs `columns`, and no other layout takes them")
        return self


class Groups(Strict):
    """How many synthetic groups (a source and an instruction with four candidates, eight rows) each split gets."""

    train: Count
    validation: Count
    rl: Count
    heldout: Count


class Subsample(Strict):
    """What share of a split's rows of a kind is kept, 0..1: failed edits (`sc` rows without a region), and `pq` rows."""

    failed: Annotated[float, Field(ge=0, le=1)] = 1.0
    pq: Annotated[float, Field(ge=0, le=1)] = 1.0


class DataRecipe(Strict):
    """`data.yaml`: `sources`, or `synthetic_groups`, or both."""

    output_dir: Path
    seed: int = 0
    sources: list[Source] = []
    synthetic_groups: Groups | None = None
    subsample: Annotated[
        dict[Split, Subsample], Field(description="shares of a split's rows that are kept; all by default")
    ] = {}
    image_size: Annotated[
        int, Field(ge=32, description="side of a drawn image, longest side of a background, in pixels")
    ] = 64
    backgrounds: Annotated[Path | None, Field(description="folder of images to draw on; null: plain ones")] = None
    pixels: Pixels
    max_new_tokens: Count
    tokenizer: Annotated[
        Path | None, Field(description="folder with a tokenizer.json, to count tokens in the report")
    ] = None
    prompts: Annotated[
        dict[Task, Prompt],
        Field(description="the model's prompts, with $instruction, $low, $high; this project's own by default"),
    ] = {}
    prompt_from: Annotated[str | None, Field(description="source whose prompts train; null: `prompts`")] = None
    score_range: Annotated[Bounds, Field(description="of the scores that the model gives")] = DEFAULT_SCORE_RANGE
    policy: Annotated[
        dict[str, Policy], Field(description="kind of error in a row -> fix, drop or fail (data/cleaning/fixer.py)")
    ] = {}
    box_tolerance: Annotated[float, Field(ge=0, description="how far out of 0..1000 a box is clamped, not dropped")] = (
        5.0
    )
    image_format: Annotated[Literal["png", "jpeg"], Field(description="of resized images; png is lossless")] = "png"
    benchmarks: Annotated[list[Path], Field(description="folders whose images must not be trained on")] = []
    hash_distance: Annotated[int, Field(ge=0, le=64, description="bits of 64 that a look-alike may differ in")] = 4
    processes: Count = os.cpu_count() or 1

    @field_validator("policy")
    @classmethod
    def _of_every_kind(cls, changes: dict[str, Policy]) -> dict[str, Policy]:
        policies(changes)
        return changes

    @model_validator(mode="after")
    def _has_rows_and_prompts(self) -> Self:
        if not self.sources and self.synthetic_groups is None:
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
