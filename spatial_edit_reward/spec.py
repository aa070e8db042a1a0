"""`verdict.json`: prompts and limits that travel with every checkpoint, so that training, evaluation and serving agree."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from spatial_edit_reward.errors import SpecError, first_error
from spatial_edit_reward.schema import TASKS, Task

FILE_NAME = "verdict.json"

# The instruction comes last: next to the answer that has to name what it names.
SC_PROMPT = """The first picture is the source, the second picture is what an edit made of it. Judge the edit. \
Answer with one JSON object and nothing else, with these keys in this order:
"edit_region": a list of {"id", "label", "bbox_2d"} of every region that was changed, ids from 0, "bbox_2d" as \
[x1, y1, x2, y2] from 0 to 1000 in the second picture; empty if nothing was edited.
"reasoning": a text that writes <|bbox_ID|> before it describes a region, and <|global|> before the overall assessment.
"score": [success, over-editing], each from $low to $high; over-editing is $high if nothing else was changed.
The editing instruction: $instruction"""

PQ_PROMPT = """The picture is the result of an edit. Judge how good it looks. \
Answer with one JSON object and nothing else, with these keys in this order:
"reasoning": a text about how natural the picture is.
"score": [naturalness, artifacts], each from $low to $high, where $high is natural and free of artifacts.
The editing instruction: $instruction"""


def _asking(text: str) -> str:
    if not Template(text).is_valid() or "instruction" not in Template(text).get_identifiers():
        raise ValueError("a prompt must hold $instruction, and a dollar sign of its own written $$")
    return text


# A text with `$instruction` and, where wanted, `$low` and `$high`.
Prompt = Annotated[str, AfterValidator(_asking)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pixels(_Strict):
    """Limits of an image's area in pixels, inclusive, and the side that both of its sides are a multiple of."""

    min: Annotated[int, Field(gt=0)]
    max: Annotated[int, Field(gt=0)]
    multiple: Annotated[int, Field(gt=0)]


class Aggregation(_Strict):
    """R = (SC / high)^sc * (PQ / high)^pq, with SC and PQ the weighted means of their two scores (arXiv 2602.07458)."""

    sc: Annotated[float, Field(ge=0)] = 0.8
    pq: Annotated[float, Field(ge=0)] = 0.2
    sc_scores: tuple[float, float] = (0.6, 0.4)
    pq_scores: tuple[float, float] = (0.5, 0.5)


class Spec(_Strict):
    """What is asked (prompts, with `$instruction`, `$low` and `$high`), on which pixels, and how long the answer may be."""

    version: Literal[1] = 1
    prompts: dict[Task, Prompt] = {"sc": SC_PROMPT, "pq": PQ_PROMPT}
    score_range: tuple[float, float] = (0.0, 25.0)
    pixels: Pixels
    max_new_tokens: Annotated[int, Field(gt=0)]
    aggregation: Aggregation = Aggregation()

    @model_validator(mode="after")
    def _whole(self) -> Spec:
        if set(self.prompts) != set(TASKS):
            raise ValueError(f"prompts must be given for {' and '.join(TASKS)}")
        if self.score_range[0] >= self.score_range[1] or self.pixels.min > self.pixels.max:
            raise ValueError("score_range and pixels must each rise from low to high")
        return self

    def prompt(self, task: Task, instruction: str) -> str:
        """The user text for one row; the images come before it."""
        low, high = (f"{bound:g}" for bound in self.score_range)
        return Template(self.prompts[task]).substitute(instruction=instruction, low=low, high=high)


def load_spec(folder: Path) -> Spec:
    """The spec saved in `folder`. Raises SpecError where there is none or it is not one."""
    file = folder / FILE_NAME
    try:
        return Spec.model_validate_json(file.read_text())
    except FileNotFoundError:
        raise SpecError(f"{folder}: no {FILE_NAME} in it, so its prompts and limits are unknown") from None
    except ValidationError as error:
        key, message = first_error(error)
        raise SpecError(f"{file}: {key or 'content'}: {message}") from None


def save_spec(spec: Spec, folder: Path) -> None:
    """Writes `verdict.json` into `folder`."""
    (folder / FILE_NAME).write_text(json.dumps(spec.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n")
