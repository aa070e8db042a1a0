"""`python -m evaluation bench`: asks a model about a benchmark, verdict by verdict into a result file, and scores what came.

Result files are `runs/NAME/benchmarks/BENCH/MODEL/verdicts.jsonl`; a blind run of the held-out rows is beside them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Json

from data.rows import load_rows
from evaluation.benchmarks import heldout
from evaluation.benchmarks.gallery import wrong_rankings
from evaluation.benchmarks.plan import Plan, failures, names, plan_heldout, plan_samples
from evaluation.benchmarks.read import BENCHES, read_samples
from evaluation.benchmarks.report import write_report
from evaluation.benchmarks.score import PARTIAL_STATUS, print_figures
from evaluation.benchmarks.scores import Aggregation, both_rules, read_run
from evaluation.recipe import EvalRecipe
from pipeline.fingerprint import hash_model
from pipeline.folders import require
from pipeline.rewards import read_rewards
from rewards_fn.load import COLUMNS
from spatial_edit_reward import Spec
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.files import write_json
from spatial_edit_reward.inference.backends import Endpoint, load_model_spec, open_backend
from spatial_edit_reward.inference.request import Backend, Request, Response
from spatial_edit_reward.inference.store import create, generate_missing, read_responses

FILE_NAME = "verdicts.jsonl"
LISTED = 20
ALL = ("heldout", *BENCHES)


class BenchmarkConfig(BaseModel):
    """What is asked, of whom, and how; the options of `python -m evaluation bench`."""

    model_config = ConfigDict(extra="forbid")
    bench: str
    model: str
    backend: str = "transformers"
    spec: Path | None = None
    data: Path | None = None
    batch_size: Annotated[int, Field(gt=0)]
    samples: Annotated[int, Field(gt=0)] = 1
    temperature: Annotated[float, Field(ge=0)] = 0.0
    aggregation: Aggregation = "weighted"
    expected_score: bool = False
    prices: tuple[float, float] | None = None
    extra_body: Json[dict[str, Any]] = {}
    partial: bool = False
    overwrite: bool = False


def folder_of(recipe: EvalRecipe, bench: str, asking: BenchmarkConfig, blind: bool = False) -> Path:
    """Where a model's verdicts on a benchmark are kept: by its name or its folder's path, and how it is asked."""
    slug = re.sub(r"[^\w.-]+", "-", asking.model).strip("-.") or "model"
    marks = [f"avg{asking.samples}"] * (asking.samples > 1) + ["expected"] * asking.expected_score + ["blind"] * blind
    return recipe.run_dir / "benchmarks" / bench / ".".join([slug, *marks])


def copy_of(data: Path | None, bench: str) -> str | None:
    """The local copy of `bench`: the folder of its name in `data` if there is one, else `data`; None: the Hub."""
    if data is None:
        return None
    return str(data / bench if (data / bench).exists() else data)


def plan_of(recipe: EvalRecipe, asking: BenchmarkConfig, bench: str, spec: Spec, blind: bool) -> Plan:
    """What has to be asked for `bench`. Raises UserError where its rows cannot be read."""
    if bench != "heldout":
        return plan_samples(read_samples(bench, copy_of(asking.data, bench)), spec, recipe.seed)
    file = require(recipe.run_dir / "data" / "heldout.parquet", "data")
    return plan_heldout(load_rows(file, spec), spec, blind)


def head_of(recipe: EvalRecipe, asking: BenchmarkConfig, bench: str, plan: Plan, blind: bool) -> dict[str, Any]:
    """The first line of the result file: everything that the verdicts and their scores depend on."""
    # A result file holds no images.
    columns = set(COLUMNS) - {"images"}
    selected = read_rewards(recipe.rewards_from, columns, plan.spec.score_range)
    return {
        "bench": bench,
        "model": asking.model,
        "weights": hash_model(asking.model),
        "backend": asking.backend,
        "blind": blind,
        "samples": asking.samples,
        "temperature": asking.temperature,
        "expected_score": asking.expected_score,
        "extra_body": asking.extra_body,
        "seed": recipe.seed,
        "rewards": {"entries": selected.entries, "weights": selected.weights},
        "spec": plan.spec.model_dump(mode="json"),
        "rows": plan.rows,
    }


def run_one(
    recipe: EvalRecipe, asking: BenchmarkConfig, bench: str, ask: Backend, spec: Spec, blind: bool = False
) -> bool:
    """Asks, scores and reports one benchmark; whether every verdict was given. Without them figures need `partial`."""
    plan = plan_of(recipe, asking, bench, spec, blind)
    file = folder_of(recipe, bench, asking, blind) / FILE_NAME
    create(file, head_of(recipe, asking, bench, plan, blind), asking.overwrite)
    what = f"{bench}, blind" if blind else bench
    generate_missing(file, names(plan, asking.samples), plan.question, ask, asking.batch_size, what)
    failed = failures(plan, read_responses(file), asking.samples)
    tell(failed, what, file.parent / "failures.txt")
    scores = file.parent / "scores.json"
    if failed and not asking.partial:
        scores.unlink(missing_ok=True)
        print(
            f"{what}: no result below full coverage: ask again, or look at what is there with --partial",
            file=sys.stderr,
        )
        return False
    write_json(scores, figures_of(recipe, asking, file))
    if bench != "heldout":
        wrong = wrong_rankings(read_run(file), plan, asking.aggregation, recipe.gallery_rows)
        write_json(file.parent / "wrong.json", wrong)
    return not failed


def tell(failed: Sequence[str], what: str, file: Path) -> None:
    """Lists what has no verdict, the first of it on stderr, all of it in `file`, which is there only for failures."""
    file.unlink(missing_ok=True)
    if not failed:
        return
    file.write_text("".join(line + "\n" for line in failed))
    rest = f"\n  ... and {len(failed) - LISTED} more in {file}" if len(failed) > LISTED else ""
    print(f"{what}: {len(failed)} without a verdict:\n  " + "\n  ".join(failed[:LISTED]) + rest, file=sys.stderr)


def figures_of(recipe: EvalRecipe, asking: BenchmarkConfig, file: Path) -> Mapping[str, Any]:
    """What `scores.json` holds beside the verdicts: who was asked, and the figures, with expected scores beside where asked."""
    run = read_run(file)
    head = run.head
    about = {name: head[name] for name in ("bench", "model", "backend", "blind", "samples", "temperature")}
    if head["bench"] == "heldout":
        figures = heldout.figures(run, recipe.bootstrap_samples)
    else:
        figures = both_rules(run, asking.aggregation, recipe.bootstrap_samples)
        if head["expected_score"]:
            figures["expected"] = both_rules(run, asking.aggregation, recipe.bootstrap_samples, True)["honest"]
    print_figures(head["bench"] + (", blind" if head["blind"] else ""), figures, asking.partial)
    return about | figures


def run_benchmarks(recipe: EvalRecipe, asking: BenchmarkConfig) -> None:
    """Asks about every benchmark that `asking` names, the held-out rows also blind, and writes the report.

    Exits with PARTIAL_STATUS where verdicts are missing.
    """
    if asking.bench not in (*ALL, "all"):
        raise UserError(f"{asking.bench}: no such benchmark; there are {', '.join(ALL)} and all")
    spec = load_model_spec(asking.model, asking.spec)

    @cache
    def backend() -> Backend:
        return open_backend(
            asking.backend,
            asking.model,
            spec,
            batch_size=asking.batch_size,
            samples=asking.samples,
            temperature=asking.temperature,
            expected_score=asking.expected_score,
            endpoint=Endpoint(prices=asking.prices, extra_body=asking.extra_body),
        )

    def ask(questions: Sequence[Request]) -> Iterator[tuple[Request, Response]]:
        yield from backend()(questions)  # loaded only when there is something left to ask

    whole = True
    for bench in ALL if asking.bench == "all" else (asking.bench,):
        whole &= run_one(recipe, asking, bench, ask, spec)
        if bench == "heldout":
            whole &= run_one(recipe, asking, bench, ask, spec, blind=True)
    write_report(recipe)
    if not whole:
        sys.exit(PARTIAL_STATUS)
