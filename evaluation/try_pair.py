"""`make try`: what a model says of one edit, from two image files to a page with its boxes drawn. No reference, no rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from spatial_edit_reward import TASKS, ParseFailure, Spec, Task, Verdict, aggregate, load_spec, repair
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.checks import failed_checks, valid_scores
from spatial_edit_reward.draw import PREDICTED_COLOR, Outline, data_uri, draw_boxes
from spatial_edit_reward.images import fit, open_image
from spatial_edit_reward.inference.generation import Completion, generate
from spatial_edit_reward.inference.model import load_model, load_processor
from spatial_edit_reward.pages import drawable_boxes, render_page

SCORES = {"sc": ("success", "over-editing"), "pq": ("naturalness", "artifacts")}
SHOWN_SIDE = 640


@dataclass(frozen=True)
class Answer:
    """What the model wrote to one question, and how it was read: `verdict` is None where it was not, `notes` say why."""

    task: Task
    completion: str
    verdict: Verdict | None
    scores: tuple[float, float] | None
    notes: list[str]

    @property
    def named_scores(self) -> dict[str, str]:
        """The two scores by name, – for what is not there."""
        values = self.scores or (None, None)
        return {
            name: "–" if value is None else f"{value:g}" for name, value in zip(SCORES[self.task], values, strict=True)
        }


def read_answer(task: Task, said: Completion, spec: Spec) -> Answer:
    """The verdict in a completion, mended where that can be done without inventing anything."""
    notes = ["cut off at the token limit"] if said.truncated else []
    try:
        repaired = repair(said.text, task)
    except ParseFailure as failure:
        return Answer(task, said.text, None, None, [*notes, f"no verdict: {failure}"])
    if repaired.changed:
        notes.append("not exactly one JSON object: read after a repair")
    failed = failed_checks(repaired.verdict)
    if failed:
        notes.append(f"not valid: {', '.join(failed)}")
    return Answer(task, said.text, repaired.verdict, valid_scores(repaired.verdict, spec.score_range), notes)


def ask(model_name: str, source: Path, edited: Path, instruction: str) -> tuple[list[Answer], Spec, list[Any]]:
    """(answers to `sc` and `pq`, the model's spec, the two pictures as it saw them).

    Raises UserError or SpecError for a file or a model that cannot be used.
    """
    spec = load_spec(Path(model_name))
    pictures = [fit(open_image(file), spec.pixels) for file in (source, edited)]
    processor, model = load_processor(model_name, spec), load_model(model_name, "auto", None)
    model.to(PartialState().device)
    messages = [prompt_messages(task, instruction, spec) for task in TASKS]
    images = [pictures, pictures[1:]]
    said = generate(model, processor, messages, images, spec.max_new_tokens)
    return [read_answer(task, text, spec) for task, text in zip(TASKS, said, strict=True)], spec, pictures


def overall(answers: Sequence[Answer], spec: Spec) -> float | None:
    """R in 0..1; None where one of the two verdicts has no usable scores."""
    sc, pq = (answer.scores for answer in answers)
    return None if sc is None or pq is None else aggregate(sc, pq, spec)


def try_pair(model_name: str, source: Path, edited: Path, instruction: str, file: Path) -> None:
    """Prints the model's two verdicts on the edit and writes them to the page `file`, boxes drawn on the edited picture."""
    answers, spec, pictures = ask(model_name, source, edited, instruction)
    found = answers[0].verdict
    boxes = drawable_boxes(found.edit_region if found else None)
    outlines = [Outline(PREDICTED_COLOR, box, str(place)) for place, box in boxes]
    total = overall(answers, spec)
    shown = [draw_boxes(pictures[0], (), SHOWN_SIDE), draw_boxes(pictures[1], outlines, SHOWN_SIDE)]
    render_page(
        "try.html.j2",
        file,
        title=instruction,
        model=model_name,
        size=f"{pictures[1].width} x {pictures[1].height}",
        images=[data_uri(image) for image in shown],
        answers=answers,
        overall="–" if total is None else f"{total:.3f}",
    )
    for answer in answers:
        scores = ", ".join(f"{name} {value}" for name, value in answer.named_scores.items())
        print(f"{answer.task}: {scores}{''.join(f'; {note}' for note in answer.notes)}")
        print(answer.completion.strip())
    print(f"R {'–' if total is None else format(total, '.3f')}, {len(boxes)} regions drawn\n{file}")
