"""Result files of real plans, answered by a function instead of a model."""

from evaluation.benchmarks.plan import names
from evaluation.benchmarks.scores import read_run
from spatial_edit_reward import Spec, render
from spatial_edit_reward.inference.request import Response
from spatial_edit_reward.inference.store import ask_all, start

SPEC = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=320)


def verdict(task, scores):
    reference = {"edit_region": [], "reasoning": "<|global|> it was done well.", "score": scores}
    return render(task, reference)


def head(bench, rows, **more):
    return {
        "bench": bench,
        "model": "m",
        "backend": "none",
        "blind": False,
        "samples": 1,
        "temperature": 0.0,
        "expected_score": False,
        "seed": 0,
        "rewards": {"entries": ["box_iou", "score_agreement", "format"], "weights": [2.0, 1.0, 1.0]},
        "spec": SPEC.model_dump(mode="json"),
        "rows": rows,
    } | more


def saved(file, made_head, plan, said):
    """A result file of `plan` with what `said(question)` answers; None leaves it out."""

    def ask(questions):
        for question in questions:
            text = said(question)
            if text is not None:
                yield question, text if isinstance(text, Response) else Response(text, False)

    start(file, made_head, True)
    ask_all(file, names(plan, made_head["samples"]), plan.question, ask, 8, "asked")
    return read_run(file)
