"""The held-out rows: what is asked about them, the responses of every model of a run, and the figures of a file of them.

A model's responses are in `runs/NAME/eval/MODEL.jsonl`, a store, so that a killed run goes on where it was. A model shows what
it knows without looking where every image is replaced by a gray one ("blind").
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from evaluation.metrics import group_sums, interval, score_rows
from evaluation.recipe import EvalRecipe
from evaluation.requests import EncodedImage, RequestPlan, request_id
from evaluation.responses import Line, Responses, readable_scores, verdict_rates
from pipeline.fingerprint import hash_files, hash_model, hash_rows
from pipeline.folders import require, require_finished, stage_output
from rewards_fn import RULES
from rewards_fn.load import Selected, load_rewards, select_rewards
from spatial_edit_reward import Spec, load_spec
from spatial_edit_reward.errors import UserError, one_line
from spatial_edit_reward.images import encode, fit
from spatial_edit_reward.inference.backends import open_backend
from spatial_edit_reward.inference.store import create, generate_missing, read_responses
from spatial_edit_reward.parser import parse_or_none

if TYPE_CHECKING:
    from data.stored_rows import StoredRows

GRAY = (128, 128, 128)


def gray_image(spec: Spec) -> bytes:
    """The PNG that stands for every image in a blind run: gray, of the largest square that the spec allows."""
    side = int(spec.pixels.max**0.5)
    return encode(fit(Image.new("RGB", (side, side), GRAY), spec.pixels), "png")


def plan_heldout(rows: StoredRows, spec: Spec, blind: bool = False) -> RequestPlan:
    """The requests about canonical `rows`, whose images are opened one row at a time; `blind`: all of them gray."""
    plan, gray = RequestPlan(spec), gray_image(spec)
    for index in range(len(rows)):
        row = rows.encoded(index)
        images: list[EncodedImage | None] = [gray if blind else image["bytes"] for image in row["images"]]
        key = request_id(row["task"], row["instruction"], images, spec)
        plan.rows.append(
            {name: row[name] for name in ("id", "task", "group", "instruction", "reference")} | {"key": key}
        )
        load = partial(list, images) if blind else partial(_row_images, rows, index)
        plan.prompts.setdefault(key, (row["task"], row["instruction"], load))
    return plan


def _row_images(rows: StoredRows, index: int) -> Sequence[EncodedImage | None]:
    return [image["bytes"] for image in rows.encoded(index)["images"]]


def write_heldout(recipe: EvalRecipe, overwrite: bool) -> None:
    """Writes the greedy verdicts of every model of the recipe on its held-out rows into `run_dir/eval`, which is then finished.

    Raises UserError where an earlier stage is missing, a model cannot be used, or a row got no response.
    """
    from data.rows import load_rows

    rows_file = require(recipe.run_dir / "data" / "heldout.parquet", "data")
    for stage in ("sft", "grpo"):
        require_finished(recipe.run_dir / stage, stage)
    merged = require(recipe.run_dir / "merge", "merge")

    def fingerprint() -> dict[str, Any]:
        models = {
            name: [hash_model(weights), hash_files(adapter) if adapter else None]
            for name, (weights, adapter) in recipe.models().items()
        }
        return {"rows": hash_rows(rows_file), "models": models, "backend": recipe.backend}

    files = [f"{name}.jsonl" for name in recipe.models()]
    with stage_output(recipe.run_dir / "eval", fingerprint, overwrite=overwrite, outputs=files) as output:
        if output is None:
            return
        spec = load_spec(merged)
        plan = plan_heldout(load_rows(rows_file, spec), spec)
        for name, (weights, adapter) in recipe.models().items():
            file = output / f"{name}.jsonl"
            write_responses(name, weights, adapter, plan, recipe.backend, recipe.batch_size, file)


def write_responses(
    name: str, weights: str, adapter: Path | None, plan: RequestPlan, backend: str, batch_size: int, file: Path
) -> None:
    """Writes the greedy response of the model `name` (`weights`, with `adapter` on them) to every row that `file` lacks.

    Raises UserError where `file` holds other work, where the model cannot be used, and where a row got no response.
    """
    header = {
        "bench": "heldout",
        "model": weights,
        "weights": hash_model(weights),
        "adapter": hash_files(adapter) if adapter else None,
        "backend": backend,
        "samples": 1,
        "temperature": 0.0,
        "spec": plan.spec.model_dump(mode="json"),
        "rows": plan.rows,
    }
    create(file, header)
    generate = open_backend(backend, weights, plan.spec, batch_size=batch_size, adapter=adapter)
    # Longest prompts first: they share batches, and what does not fit in memory shows at once.
    names = sorted(plan.names(1), key=lambda one: plan.prompts[one[0]][0] == "pq")
    generate_missing(file, names, plan.request, generate, batch_size, f"held-out rows, {name}")
    del generate
    gc.collect()  # before the next model takes its place in memory
    failures = plan.failures(read_responses(file), 1)
    if failures:
        raise UserError(
            f"{file}: {len(failures)} of {len(plan.rows)} rows without a response, the first: {failures[0]}"
        )


def header_rewards(responses: Responses) -> Selected:
    """The rewards that the header names, for use without a recipe; else the rules, a weight of 1 each.

    What cannot be loaded here, such as a function of another machine's module, is left out, which stderr says.
    """
    named = responses.header.get("rewards") or {"entries": list(RULES), "weights": [1.0] * len(RULES)}
    entries, weights = [], []
    for entry, weight in zip(named["entries"], named["weights"], strict=True):
        try:
            load_rewards([entry])
        except ValueError as error:
            print(f"left out of the figures: {one_line(error)}", file=sys.stderr)
        else:
            entries.append(entry)
            weights.append(weight)
    if not entries:
        return Selected([], [], [], {})
    return select_rewards(entries, weights, score_range=responses.spec.score_range)


def heldout_figures(responses: Responses, resamples: int, rewards: Selected | None = None) -> dict[str, Any]:
    """{"published": None, "honest": the held-out metrics, with intervals that resample groups, and the localization}.

    `rewards`: None takes the header's.
    """
    rows, pairs = responses.header["rows"], responses.first_lines()
    if not pairs:
        return {"published": None, "honest": {"coverage": 0.0, "samples": len(rows)}}
    rewards = rewards or header_rewards(responses)
    answered, texts = [row for row, _ in pairs], [line["text"] for _, line in pairs]
    scored = score_rows(answered, texts, rewards.rewards, rewards.weights, responses.spec)
    sums = group_sums(answered, scored, [line["truncated"] for _, line in pairs], responses.spec)
    seed = responses.header.get("seed", 0)
    intervals = {name: interval(of, resamples, seed) for name, of in sums.items()}
    complete = [row for row in rows if all(line is not None for line in responses.of(row["key"]))]
    figures: dict[str, Any] = {
        "samples": len(rows),
        "complete_samples": len(complete),
        "coverage": len(complete) / len(rows),
        **{name: values["mean"] for name, values in intervals.items()},
        "intervals": {name: [values["low"], values["high"]] for name, values in intervals.items()},
        "mean_box_iou": intervals["box_iou"]["mean"],
        **empty_regions(pairs),
        **verdict_rates(responses),
    }
    if responses.header.get("expected_score"):
        figures["expected_score_agreement"] = expected_agreement(responses, pairs)
    return {"published": None, "honest": figures}


def empty_regions(pairs: Sequence[tuple[Line, Line]]) -> dict[str, float | None]:
    """Precision and recall of the empty region ("nothing was edited") over `sc` rows whose regions are known.

    An unparsed verdict is no empty region, and misses a true one.
    """
    known = [(row, line) for row, line in pairs if row["task"] == "sc" and row["reference"]["edit_region"] is not None]
    true = [row["reference"]["edit_region"] == [] for row, _ in known]
    verdicts = [parse_or_none(line["text"], "sc") for _, line in known]
    predicted = [verdict is not None and verdict.edit_region == [] for verdict in verdicts]
    both = sum(a and b for a, b in zip(true, predicted, strict=True))
    return {
        "empty_region_precision": both / sum(predicted) if any(predicted) else None,
        "empty_region_recall": both / sum(true) if any(true) else None,
        "said_empty": sum(predicted),
        "truly_empty": sum(true),
    }


def expected_agreement(responses: Responses, pairs: Sequence[tuple[Line, Line]]) -> float:
    """Mean of 1 - |expected - true| / range over both scores, 0 where a verdict is not readable."""
    low, high = responses.spec.score_range
    values = []
    for row, line in pairs:
        scores = readable_scores(line, responses.spec, expected=True)
        true = row["reference"]["score"]
        gaps = [] if scores is None else [abs(a - b) / (high - low) for a, b in zip(scores, true, strict=True)]
        values.append(1 - float(np.mean(gaps)) if gaps else 0.0)
    return float(np.mean(values))
