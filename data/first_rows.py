"""The first rows of a source, read in seconds: what is wrong there is wrong in all of it, and need not wait for the images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from data.cleaning.box_format import DEFAULT, BoxCounts
from data.cleaning.box_order import order_problem, x_first
from data.cleaning.fixer import RowError
from data.cleaning.prepare import TASK_OF_IMAGES, Preparer, open_image
from data.outcome import check_boxes
from data.readers import READERS
from data.readers.raw import ImageSource, Raw
from data.recipe import Source
from data.templates import NEEDED
from spatial_edit_reward import TASKS, Task
from spatial_edit_reward.errors import UserError

ROWS = 1000
COMPARED = 40  # rows with boxes whose images are opened


@dataclass
class FirstRows:
    """What the first rows of a source are like.

    Args:
        errors: Kind of error -> how many rows have it; `examples`: kind -> the first such row, with what is wrong.
        images: Rows that name so many images.
        missing: Rows of which an image file is not there; `missing_example`: the first such file.
        answerless: The rows with neither a verdict nor scores, with their instruction.
        explained: Task -> rows whose prompt the template explains; `prompts`: task -> rows with a prompt.
        scores: The lowest and the highest score, in the source's own range; None without scores.
        compared: Whether x is first in a row's boxes, by what its edit changed; by its images. None where that is not plain.
    """

    rows: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    images: Counter[int] = field(default_factory=Counter)
    ids: set[str] = field(default_factory=set)
    missing: int = 0
    missing_example: str = ""
    answerless: list[tuple[str | None, Raw]] = field(default_factory=list)
    prompts: Counter[Task] = field(default_factory=Counter)
    explained: Counter[Task] = field(default_factory=Counter)
    scores: tuple[float, float] | None = None
    boxes: BoxCounts | None = None
    compared: dict[tuple[ImageSource, ...], bool | None] = field(default_factory=dict)

    def add(self, raw: Raw, source: Source, preparer: Preparer) -> None:
        """Reads one row, but for its images."""
        self.rows += 1
        self.ids.add(raw.id)
        task = TASK_OF_IMAGES.get(len(raw.images), "sc")
        self.images[len(raw.images)] += not raw.error
        gone = [image for image in raw.images if isinstance(image, Path) and not os.path.isfile(image)]
        if gone:
            self.missing += 1
            self.missing_example = self.missing_example or f"{raw.location}: {gone[0]}"
        fixer = preparer.fixer(raw, source.name)
        try:
            text = preparer.read_text(raw, source.name, source.score_range, fixer)
        except RowError as error:
            self.errors[error.kind] += 1
            self.examples.setdefault(error.kind, f"{raw.location}: {error.detail}")
            self.prompts[task] += error.kind == "no_instruction"
        else:
            self.prompts[text.task] += text.explained is not None
            self.explained[text.task] += bool(text.explained)
            if text.reference:
                self._add_scores(text.reference["score"], source, preparer)
                self._compare(raw, [region["bbox_2d"] for region in text.reference["edit_region"] or ()])
            else:
                self.answerless.append((text.instruction, raw))
        preparer.count_boxes(raw, source.name, fixer)

    def _add_scores(self, scores: Iterable[float], source: Source, preparer: Preparer) -> None:
        (low, high), (own_low, own_high) = preparer.spec.score_range, source.score_range
        own = [own_low + (score - low) * (own_high - own_low) / (high - low) for score in scores]
        self.scores = min(own + list(self.scores or own)), max(own + list(self.scores or own))

    def _compare(self, raw: Raw, boxes: list[list[float]]) -> None:
        if boxes and len(self.compared) < COMPARED and raw.images not in self.compared:
            with suppress(RowError):
                source, edited = (open_image(image)[0] for image in raw.images)
                self.compared[raw.images] = x_first(source, edited, boxes)

    def order_problem(self, source: Source) -> str | None:
        """Why x is not first in the boxes of `source`, as far as images show it."""
        orders = Counter(self.compared.values())
        return order_problem(orders[True], orders[False], source.box_format or DEFAULT)


def read_first_rows(source: Source, preparer: Preparer, rows: int = ROWS) -> FirstRows:
    """The first `rows` rows of `source`. Raises UserError where it cannot be read at all."""
    first = FirstRows()
    for raw in islice(READERS[source.layout].rows(source), rows):
        first.add(raw, source, preparer)
    first.boxes = preparer.box_counts.get(source.name)
    return first


def check_first_rows(sources: Iterable[Source], preparer: Preparer, prompt_from: str | None) -> None:
    """Raises UserError where the first rows of a source have boxes of another format, or no prompt that can be recovered."""
    for source in sources:
        first = read_first_rows(source, preparer)
        check_boxes(source.name, first.boxes)
        if problem := first.order_problem(source):
            raise UserError(f"source {source.name!r}: {problem}")
        recovered = any((source.name, task) in preparer.context.templates for task in TASKS)
        if source.name == prompt_from and not recovered and first.errors:
            kind, count = first.errors.most_common(1)[0]
            example = f"{count} of the first {first.rows} rows are {kind}, e.g. {first.examples[kind]}"
            raise UserError(f"prompt_from: {source.name!r} has no prompt in common: {example}")
        for task in TASKS if source.name == prompt_from else ():
            if first.prompts[task] and first.explained[task] < (1 - 10 * (1 - NEEDED)) * first.prompts[task]:
                raise UserError(
                    f"prompt_from: the {task} template of {source.name!r} explains {first.explained[task]} of the first "
                    f"{first.prompts[task]} prompts: `make check-source` has more; without `prompt_from` the rows are asked in "
                    "this project's words"
                )
