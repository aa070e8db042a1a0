"""The model card: every figure and setting in it is read from the run's own files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from export.run import Run
from pipeline.curves import curves
from pipeline.folders import require
from spatial_edit_reward import KEYS, Spec, load_spec
from spatial_edit_reward.errors import UserError

TEMPLATE = Path(__file__).with_name("card.md.j2")
# Settings of a stage that name places on the training machine, or say nothing about the result.
LEFT_OUT = {"data_dir", "model_name_or_path", "output_dir", "use_cpu", "extends"}
# Room for the prompt's text and the chat's frame in the limit that vLLM is given.
TEXT_TOKENS = 1024


def max_model_len(spec: Spec) -> int:
    """Tokens that the longest request needs: two pictures at the limit, the prompt's text, the answer."""
    return 2 * math.ceil(spec.pixels.max / spec.pixels.multiple**2) + TEXT_TOKENS + spec.max_new_tokens


def metadata(run: Run, repo: str) -> ModelCardData:
    """The card's header for the Hub, with the merged model's held-out means."""
    heldout = run.heldout()
    results = [
        EvalResult(
            task_type="image-text-to-text",
            dataset_type="held-out",
            dataset_name=f"held out: {heldout['rows']['sc']} sc and {heldout['rows']['pq']} pq rows",
            metric_type=metric,
            metric_value=round(figures["mean"], 4),
        )
        for metric, figures in heldout["models"]["merged"].items()
        if figures["mean"] is not None
    ]
    free = set(run.sources().values()) == {"apache-2.0"}
    return ModelCardData(
        language="en",
        license="apache-2.0" if free else "other",
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        base_model=run.base_on_hub,
        tags=["reward-model", "image-editing", "spatial-reasoning", "trl", "sft", "grpo"],
        model_name=repo.split("/")[-1],
        eval_results=results,
    )


def results(heldout: Mapping[str, Any]) -> list[list[str]]:
    """The held-out table: a head, a rule, then a line per metric with every model and difference."""

    def cell(figures: Mapping[str, float | None], sign: str) -> str:
        if figures["mean"] is None:
            return "–"
        return f"{figures['mean']:{sign}.3f} [{figures['low']:{sign}.3f}, {figures['high']:{sign}.3f}]"

    columns = [*heldout["models"], *heldout["differences"]]
    lines = [["metric", *columns], ["---"] * (1 + len(columns))]
    for metric in heldout["models"]["merged"]:
        cells = [cell(figures[metric], "") for figures in heldout["models"].values()]
        cells += [cell(figures[metric], "+") for figures in heldout["differences"].values()]
        lines.append([f"`{metric}`", *cells])
    return lines


def make_card(run: Run, repo: str) -> str:
    """The card of the run's merged model as it will be published in `repo` ("org/name").

    Raises UserError where a stage, the report or the export's verification is missing.
    """
    merged = require(run.folder / "merge", "merge")
    export = json.loads(require(merged / "export_report.json", "merge").read_text())
    if not export["passed"]:
        raise UserError(f"{merged}: did not pass its verification: {export['failed']}")
    spec = load_spec(merged)
    settings = {
        stage: {key: value for key, value in run.recipe(stage).items() if key not in LEFT_OUT}
        for stage in ("sft", "grpo")
    }
    card = ModelCard.from_template(
        metadata(run, repo),
        template_path=str(TEMPLATE),
        repo=repo,
        name=repo.split("/")[-1],
        base=run.base_on_hub or Path(run.base).as_posix(),
        rows=run.rows(),
        sources=run.sources(),
        settings={stage: yaml.safe_dump(values, sort_keys=True).strip() for stage, values in settings.items()},
        minutes={stage: run.seconds(stage) / 60 for stage in ("sft", "grpo")},
        heldout=run.heldout(),
        results=results(run.heldout()),
        export=export,
        spec=spec,
        keys={task: ", ".join(f"`{key}`" for key in keys) for task, keys in KEYS.items()},
        max_model_len=max_model_len(spec),
        versions={name: version(name) for name in ("torch", "transformers", "trl", "peft")},
    )
    return str(card)


def write_card(run: Run, repo: str) -> str:
    """Writes `README.md` and `curves.png` into the run's merged folder; returns the card."""
    card = make_card(run, repo)
    (run.folder / "merge" / "README.md").write_text(card)
    (run.folder / "merge" / "curves.png").write_bytes(curves(run.folder, "png"))
    return card
