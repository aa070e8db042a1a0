"""`python -m evaluation bench`: asks a model about a benchmark, response by response into a file, and scores what came.

The files are `runs/NAME/benchmarks/BENCH/MODEL/verdicts.jsonl`; a blind run of the held-out rows is beside them. What
`make eval` asked of a model about the held-out rows is not asked again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.rows import load_rows
from evaluation.benchmarks import BENCHMARKS
from evaluation.benchmarks.failures import wrong_rankings
from evaluation.benchmarks.figures import benchmark_figures
from evaluation.benchmarks.report import write_report
from evaluation.benchmarks.samples import plan_samples, read_samples
from evaluation.benchmarks.score import PARTIAL_STATUS, print_figures
from evaluation.heldout import heldout_figures, plan_heldout
from evaluation.options import BenchmarkConfig
from evaluation.recipe import EvalRecipe
from evaluation.requests import RequestPlan
from evaluation.responses import Responses, load_responses
from pipeline.fingerprint import hash_model, is_finished
from pipeline.folders import require
from pipeline.rewards import read_rewards
from rewards_fn.load import COLUMNS
from spatial_edit_reward import Spec
from spatial_edit_reward.files import write_json
from spatial_edit_reward.inference.backends import Endpoint, load_model_spec, open_backend
from spatial_edit_reward.inference.request import Backend
from spatial_edit_reward.inference.store import create, generate_missing, header_or_none

FILE_NAME = "verdicts.jsonl"
SHOWN = 20


def output_folder(recipe: EvalRecipe, bench: str, config: BenchmarkConfig, blind: bool = False) -> Path:
    """Where a model's verdicts on a benchmark are kept: by its name or its folder's path, and how it is asked."""
    slug = re.sub(r"[^\w.-]+", "-", config.model).strip("-.") or "model"
    marks = [f"avg{config.samples}"] * (config.samples > 1) + ["expected"] * config.expected_score + ["blind"] * blind
    return recipe.run_dir / "benchmarks" / bench / ".".join([slug, *marks])


def local_copy(data: Path | None, bench: str) -> str | None:
    """The local copy of `bench`: the folder of its name in `data` if there is one, else `data`; None: the Hub."""
    if data is None:
        return None
    return str(data / bench if (data / bench).exists() else data)


def make_plan(recipe: EvalRecipe, config: BenchmarkConfig, bench: str, spec: Spec, blind: bool) -> RequestPlan:
    """The requests of `bench`. Raises UserError where its rows cannot be read."""
    if bench != "heldout":
        return plan_samples(read_samples(bench, local_copy(config.data, bench)), spec, recipe.seed)
    file = require(recipe.run_dir / "data" / "heldout.parquet", "data")
    return plan_heldout(load_rows(file, spec), spec, blind)


def make_header(
    recipe: EvalRecipe, config: BenchmarkConfig, bench: str, plan: RequestPlan, blind: bool
) -> dict[str, Any]:
    """The first line of the file: everything that the responses and their scores depend on."""
    # A file of responses holds no images.
    rewards = read_rewards(recipe.rewards_from, set(COLUMNS) - {"images"}, plan.spec.score_range)
    return {
        "bench": bench,
        "model": config.model,
        "weights": hash_model(config.model),
        "backend": config.backend,
        "blind": blind,
        "samples": config.samples,
        "temperature": config.temperature,
        "expected_score": config.expected_score,
        "extra_body": config.extra_body,
        "seed": recipe.seed,
        "rewards": {"entries": rewards.entries, "weights": rewards.weights},
        "spec": plan.spec.model_dump(mode="json"),
        "rows": plan.rows,
    }


def eval_file(recipe: EvalRecipe, header: Mapping[str, Any]) -> Path | None:
    """The file in which a finished `make eval` has asked the same model the same; None where there is none."""
    folder = recipe.run_dir / "eval"
    if header["blind"] or header["expected_score"] or header["extra_body"] or not is_finished(folder):
        return None
    same = {name: header[name] for name in ("model", "weights", "backend", "samples", "temperature", "spec", "rows")}
    for file in sorted(folder.glob("*.jsonl")):
        if (header_or_none(file) or {}).items() >= {**same, "adapter": None}.items():
            return file
    return None


def run_one(
    recipe: EvalRecipe, config: BenchmarkConfig, bench: str, backend: Backend, spec: Spec, blind: bool = False
) -> bool:
    """Asks, scores and reports one benchmark; whether every verdict was given. Without them figures need `partial`."""
    plan = make_plan(recipe, config, bench, spec, blind)
    header = make_header(recipe, config, bench, plan, blind)
    folder, title = output_folder(recipe, bench, config, blind), f"{bench}, blind" if blind else bench
    file = eval_file(recipe, header) if bench == "heldout" and not config.overwrite else None
    if file is None:
        file = folder / FILE_NAME
        create(file, header, config.overwrite)
        batch_size = config.batch_size or recipe.batch_size
        generate_missing(file, plan.names(config.samples), plan.request, backend, batch_size, title)
    responses = load_responses(file)
    folder.mkdir(parents=True, exist_ok=True)
    failures = plan.failures(responses.lines, config.samples)
    list_failures(failures, title, folder / "failures.txt")
    if failures and not config.partial:
        (folder / "scores.json").unlink(missing_ok=True)
        print(
            f"{title}: no result below full coverage: ask again, or look at what is there with --partial",
            file=sys.stderr,
        )
        return False
    about = {name: header[name] for name in ("bench", "model", "backend", "blind", "samples", "temperature")}
    figures = figures_of(recipe, config, replace(responses, header=header))
    print_figures(title, figures, config.partial)
    write_json(folder / "scores.json", about | figures)
    if bench != "heldout":
        write_json(folder / "wrong.json", wrong_rankings(responses, plan, config.aggregation))
    return not failures


def figures_of(recipe: EvalRecipe, config: BenchmarkConfig, responses: Responses) -> dict[str, Any]:
    """The figures of a file of responses by both rules, those by expected scores beside where they were asked for."""
    resamples = recipe.bootstrap_samples
    if responses.header["bench"] == "heldout":
        return heldout_figures(responses, resamples)
    figures = benchmark_figures(responses, config.aggregation, resamples)
    if config.expected_score:
        figures["expected"] = benchmark_figures(responses, config.aggregation, resamples, True)["honest"]
    return figures


def list_failures(failures: Sequence[str], title: str, file: Path) -> None:
    """Lists what has no verdict, the first of it on stderr, all of it in `file`, which is there only for failures."""
    file.unlink(missing_ok=True)
    if not failures:
        return
    file.write_text("".join(line + "\n" for line in failures), encoding="utf-8")
    rest = f"\n  ... and {len(failures) - SHOWN} more in {file}" if len(failures) > SHOWN else ""
    print(f"{title}: {len(failures)} without a verdict:\n  " + "\n  ".join(failures[:SHOWN]) + rest, file=sys.stderr)


def run_benchmarks(recipe: EvalRecipe, config: BenchmarkConfig) -> None:
    """Asks about every benchmark that `config` names, the held-out rows also blind, and writes the report.

    Exits with PARTIAL_STATUS where verdicts are missing.
    """
    spec = load_model_spec(config.model, config.spec)
    backend = open_backend(
        config.backend,
        config.model,
        spec,
        batch_size=config.batch_size or recipe.batch_size,
        samples=config.samples,
        temperature=config.temperature,
        expected_score=config.expected_score,
        endpoint=Endpoint(prices=config.prices, extra_body=config.extra_body),
    )
    runs = [(bench, False) for bench in (("heldout", *BENCHMARKS) if config.bench == "all" else (config.bench,))]
    if runs[0][0] == "heldout":
        runs.insert(1, ("heldout", True))
    complete = [run_one(recipe, config, bench, backend, spec, blind) for bench, blind in runs]
    write_report(recipe)
    if not all(complete):
        sys.exit(PARTIAL_STATUS)
