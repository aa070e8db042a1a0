"""`verdict.json`: prompts and limits that travel with every checkpoint, so that training, evaluation and serving agree.

It may come from anywhere with a checkpoint, so that every value in it is bounded.
"""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from spatial_edit_reward.errors import SpecError, first_error
from spatial_edit_reward.files import write_json
from spatial_edit_reward.schema import DEFAULT_SCORE_RANGE, TASKS, ScoreRange, Task, plain_text

FILE_NAME = "verdict.json"
MAX_BYTES = 2**20  # of the file
MAX_PIXELS = 64 * 10**6  # of an image

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


# What stands for the instruction of a row without one, in a `pq` prompt that holds $instruction.
NO_INSTRUCTION = "(not given)"


def _check_prompt(text: str) -> str:
    if not Template(text).is_valid() or set(Template(text).get_identifiers()) - {"instruction", "low", "high"}:
        raise ValueError("$instruction, $low and $high are known, and a dollar sign of its own is written $$")
    return text


def _check_prompts(prompts: dict[Task, str]) -> dict[Task, str]:
    if "instruction" not in Template(prompts.get("sc", "$instruction")).get_identifiers():
        raise ValueError("prompts.sc must hold $instruction")
    return prompts


def _check_rises(bounds: ScoreRange) -> ScoreRange:
    if bounds[0] >= bounds[1]:
        raise ValueError("score_range must rise from low to high")
    return bounds


def _check_weights(weights: tuple[float, float]) -> tuple[float, float]:
    if sum(weights) == 0:
        raise ValueError("one of the two must be above 0")
    return weights


# A text with `$instruction`, which only `sc` needs, and, where wanted, `$low` and `$high`.
Prompts = Annotated[dict[Task, Annotated[str, AfterValidator(_check_prompt)]], AfterValidator(_check_prompts)]
Points = Annotated[float, Field(ge=-1e6, le=1e6)]
Bounds = Annotated[tuple[Points, Points], AfterValidator(_check_rises)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Weights = Annotated[tuple[Weight, Weight], AfterValidator(_check_weights)]
PixelCount = Annotated[int, Field(gt=0, le=MAX_PIXELS)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pixels(_Strict):
    """Limits of an image's area in pixels, inclusive, and the side that both of its sides are a multiple of."""

    min: PixelCount
    max: PixelCount
    multiple: PixelCount

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min > self.max or self.multiple**2 > self.max:
            raise ValueError("max must be at least min, and at least multiple x multiple")
        return self


class Aggregation(_Strict):
    """R = SC^sc * PQ^pq, with SC and PQ the weighted means of their two scores, relative to the range (arXiv 2602.07458)."""

    sc: Weight = 0.8
    pq: Weight = 0.2
    sc_scores: Weights = (0.6, 0.4)
    pq_scores: Weights = (0.5, 0.5)

    @model_validator(mode="after")
    def _check_exponents(self) -> Self:
        _check_weights((self.sc, self.pq))
        return self


class Spec(_Strict):
    """What is asked, on which pixels, in which range a score is, and how long the completion may be.

    >>> spec = Spec(pixels=Pixels(min=65_536, max=1_048_576, multiple=32), max_new_tokens=1024, score_range=(0, 10))
    >>> spec.prompt("pq", "Remove the cup.").splitlines()[-1]
    'The editing instruction: Remove the cup.'
    """

    version: Literal[1] = 1
    prompts: Prompts = {"sc": SC_PROMPT, "pq": PQ_PROMPT}
    score_range: Bounds = DEFAULT_SCORE_RANGE
    pixels: Pixels
    max_new_tokens: Annotated[int, Field(gt=0, le=2**17)]
    aggregation: Aggregation = Aggregation()

    @model_validator(mode="after")
    def _check_tasks(self) -> Self:
        if set(self.prompts) != set(TASKS):
            raise ValueError(f"prompts must be given for {' and '.join(TASKS)}")
        return self

    def prompt(self, task: Task, instruction: str | None) -> str:
        """The user text for one row; the images come before it. Special tokens in it are written as plain text.

        `instruction`: None for a `pq` row without one. Raises ValueError for an `sc` row without one.
        """
        if task == "sc" and instruction is None:
            raise ValueError("an sc row needs an instruction")
        low, high = (f"{bound:g}" for bound in self.score_range)
        words = NO_INSTRUCTION if instruction is None else instruction
        return plain_text(Template(self.prompts[task]).substitute(instruction=words, low=low, high=high))


def load_spec(folder: Path) -> Spec:
    """The spec saved in `folder`. Raises SpecError where there is none, it cannot be read, or it is not one."""
    file = folder / FILE_NAME
    try:
        with file.open("rb") as opened:
            return Spec.model_validate_json(opened.read(MAX_BYTES), strict=True)
    except FileNotFoundError:
        raise SpecError(f"{folder}: no {FILE_NAME} in it, so its prompts and limits are unknown") from None
    except OSError as error:
        raise SpecError(f"{file}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        key, message = first_error(error)
        raise SpecError(f"{file}: {key or 'content'}: {message}") from None


def save_spec(spec: Spec, folder: Path) -> None:
    """Writes `verdict.json` into `folder`."""
    write_json(folder / FILE_NAME, spec.model_dump(mode="json"))
