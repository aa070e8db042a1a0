"""`make try`: a model's verdicts on one edit, from two image files to a page with its boxes drawn. No reference, no rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.figures import MISSING, format_figure
from spatial_edit_reward import TASKS, ParseFailure, Spec, Task, Verdict, aggregate, load_spec, repair
from spatial_edit_reward.checks import failed_checks, valid_scores
from spatial_edit_reward.draw import PREDICTED_COLOR, Outline, data_uri, draw_boxes
from spatial_edit_reward.images import fit, open_image
from spatial_edit_reward.inference.backends import open_backend
from spatial_edit_reward.inference.request import Request, Response
from spatial_edit_reward.pages import drawable_boxes, render_page

SCORES = {"sc": ("success", "over-editing"), "pq": ("naturalness", "artifacts")}
SHOWN_SIDE = 640


@dataclass(frozen=True)
class Answer:
    """A completion as it was read: no `verdict` where that failed, no `scores` where they are not usable; `notes` say why."""

    task: Task
    completion: str
    verdict: Verdict | None
    scores: tuple[float, float] | None
    notes: list[str]

    @property
    def named_scores(self) -> dict[str, str]:
        """The two scores by name, as text."""
        texts = [f"{score:g}" for score in self.scores] if self.scores else [MISSING, MISSING]
        return dict(zip(SCORES[self.task], texts, strict=True))


def read_answer(task: Task, response: Response, spec: Spec) -> Answer:
    """The verdict in a response, repaired where that can be done without inventing anything."""
    notes = ["cut off at the token limit"] if response.truncated else []
    try:
        repaired = repair(response.text, task)
    except ParseFailure as failure:
        return Answer(task, response.text, None, None, [*notes, f"no verdict: {failure}"])
    if repaired.changed:
        notes.append("not exactly one JSON object: read after a repair")
    failed = failed_checks(repaired.verdict, spec.score_range)
    if failed:
        notes.append(f"not valid: {', '.join(failed)}")
    return Answer(task, response.text, repaired.verdict, valid_scores(repaired.verdict, spec.score_range), notes)


def overall(answers: Sequence[Answer], spec: Spec) -> float | None:
    """R in 0..1; None where one of the two verdicts has no usable scores."""
    sc, pq = (answer.scores for answer in answers)
    return None if sc is None or pq is None else aggregate(sc, pq, spec)


def try_pair(model_name: str, source: Path, edited: Path, instruction: str, file: Path) -> None:
    """Prints the model's two verdicts on the edit and writes them to the page `file`, boxes drawn on the edited image.

    Raises UserError or SpecError for a file or a model that cannot be used.
    """
    spec = load_spec(Path(model_name))
    images = [fit(open_image(one), spec.pixels) for one in (source, edited)]
    backend = open_backend("transformers", model_name, spec, batch_size=len(TASKS))
    requests = [Request(task, task, instruction, images if task == "sc" else images[1:]) for task in TASKS]
    responses = {request.task: response for request, response in backend(requests)}
    answers = [read_answer(task, responses[task], spec) for task in TASKS]
    verdict = answers[0].verdict
    boxes = drawable_boxes(verdict.edit_region if verdict else None)
    outlines = [Outline(PREDICTED_COLOR, box, str(index)) for index, box in boxes]
    total = format_figure(overall(answers, spec))
    shown = [draw_boxes(images[0], (), SHOWN_SIDE), draw_boxes(images[1], outlines, SHOWN_SIDE)]
    render_page(
        "try.html.j2",
        file,
        title=instruction,
        model=model_name,
        size=f"{images[1].width} x {images[1].height}",
        images=[data_uri(image) for image in shown],
        answers=answers,
        overall=total,
    )
    for answer in answers:
        scores = ", ".join(f"{name} {value}" for name, value in answer.named_scores.items())
        print(f"{answer.task}: {scores}{''.join(f'; {note}' for note in answer.notes)}")
        print(answer.completion.strip())
    print(f"R {total}; regions drawn: {len(boxes)}\n{file}")
