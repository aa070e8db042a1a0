"""Files of responses of real plans, answered by a function instead of a model."""

from evaluation.responses import load_responses
from spatial_edit_reward import Spec, render
from spatial_edit_reward.inference.request import Response
from spatial_edit_reward.inference.store import create, generate_missing

SPEC = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=320)


def read_plan(bench, folder, count=None, seed=0):
    """The plan of the first `count` samples of a drawn benchmark in `folder`."""
    from evaluation.benchmarks.samples import plan_samples, read_samples

    return plan_samples(read_samples(bench, str(folder / bench))[:count], SPEC, seed)


def verdict(task, scores):
    reference = {"edit_region": [], "reasoning": "<|global|> it was done well.", "score": scores}
    return render(task, reference)


def make_header(bench, rows, **changes):
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
    } | changes


def write_run(file, header, plan, answer):
    """The responses to `plan` that `answer(request)` gives, a text or a Response; None leaves one out."""

    def backend(requests):
        for request in requests:
            text = answer(request)
            if text is not None:
                yield request, text if isinstance(text, Response) else Response(text, False)

    create(file, header, overwrite=True)
    generate_missing(file, plan.names(header["samples"]), plan.request, backend, 8, "test")
    return load_responses(file)
