"""`python -m evaluation bench`: asks a model about a benchmark, response by response into a file, and scores what came.

The files are `runs/NAME/benchmarks/BENCH/MODEL/verdicts.jsonl`; a blind run of the held-out rows is beside them. What
`make eval` asked of a model about the held-out rows is not asked again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from data.rows import load_rows
from evaluation.benchmarks import BENCHMARKS
from evaluation.benchmarks.failures import wrong_rankings
from evaluation.benchmarks.figures import benchmark_figures
from evaluation.benchmarks.report import write_report
from evaluation.benchmarks.samples import plan_samples, read_samples
from evaluation.benchmarks.score import PARTIAL_STATUS, print_figures
from evaluation.heldout import plan_heldout
from evaluation.heldout_figures import heldout_figures
from evaluation.options import BenchmarkConfig
from evaluation.recipe import EvalRecipe
from evaluation.requests import Name, RequestPlan
from evaluation.responses import load_responses
from pipeline.fingerprint import hash_model
from pipeline.folders import require
from pipeline.rewards import read_rewards
from rewards_fn.load import COLUMNS
from spatial_edit_reward import Spec
from spatial_edit_reward.files import write_json
from spatial_edit_reward.inference.backends import Endpoint, load_model_spec, open_backend
from spatial_edit_reward.inference.request import Backend, Request, Response
from spatial_edit_reward.inference.store import create, generate_missing, read_header, read_responses

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


def known_responses(recipe: EvalRecipe, header: dict[str, Any]) -> dict[Name, Response]:
    """What `make eval` has from the same model, asked in the same way; by key and sample."""
    if header["extra_body"] or header["expected_score"]:
        return {}
    same = {name: header[name] for name in ("model", "weights", "backend", "samples", "temperature", "spec")}
    known = {}
    for file in (recipe.run_dir / "eval").glob("*.jsonl"):
        if read_header(file).items() >= (same | {"adapter": None}).items():
            for name, line in read_responses(file).items():
                known[name] = Response(**{field: line[field] for field in Response._fields})
    return known


def reusing(known: Mapping[Name, Response], backend: Backend) -> Backend:
    """`backend`, asked for what is not in `known` alone."""

    def generate(requests: Iterable[Request]) -> Iterator[tuple[Request, Response]]:
        reused = []

        def unknown() -> Iterator[Request]:
            for request in requests:
                if (name := (request.key, request.sample)) in known:
                    reused.append((request._replace(images=[]), known[name]))
                else:
                    yield request

        remaining = unknown()
        if (first := next(remaining, None)) is not None:  # else no model is loaded
            yield from backend(chain([first], remaining))
        yield from reused

    return generate


def run_one(
    recipe: EvalRecipe, config: BenchmarkConfig, bench: str, backend: Backend, spec: Spec, blind: bool = False
) -> bool:
    """Asks, scores and reports one benchmark; whether every verdict was given. Without them figures need `partial`."""
    plan = make_plan(recipe, config, bench, spec, blind)
    header = make_header(recipe, config, bench, plan, blind)
    file = output_folder(recipe, bench, config, blind) / FILE_NAME
    create(file, header, config.overwrite)
    if bench == "heldout" and not config.overwrite:
        backend = reusing(known_responses(recipe, header), backend)
    title = f"{bench}, blind" if blind else bench
    batch_size = config.batch_size or recipe.batch_size
    generate_missing(file, plan.names(config.samples), plan.request, backend, batch_size, title)
    failures = plan.failures(read_responses(file), config.samples)
    list_failures(failures, title, file.parent / "failures.txt")
    scores = file.parent / "scores.json"
    if failures and not config.partial:
        scores.unlink(missing_ok=True)
        print(
            f"{title}: no result below full coverage: ask again, or look at what is there with --partial",
            file=sys.stderr,
        )
        return False
    write_json(scores, scores_of(recipe, config, file))
    if bench != "heldout":
        wrong = wrong_rankings(load_responses(file), plan, config.aggregation, recipe.gallery_rows)
        write_json(file.parent / "wrong.json", wrong)
    return not failures


def list_failures(failures: Sequence[str], title: str, file: Path) -> None:
    """Lists what has no verdict, the first of it on stderr, all of it in `file`, which is there only for failures."""
    file.unlink(missing_ok=True)
    if not failures:
        return
    file.write_text("".join(line + "\n" for line in failures))
    rest = f"\n  ... and {len(failures) - SHOWN} more in {file}" if len(failures) > SHOWN else ""
    print(f"{title}: {len(failures)} without a verdict:\n  " + "\n  ".join(failures[:SHOWN]) + rest, file=sys.stderr)


def scores_of(recipe: EvalRecipe, config: BenchmarkConfig, file: Path) -> dict[str, Any]:
    """What `scores.json` holds: who was asked, and the figures, those by expected scores beside where asked; printed too."""
    responses, resamples = load_responses(file), recipe.bootstrap_samples
    header = responses.header
    about = {name: header[name] for name in ("bench", "model", "backend", "blind", "samples", "temperature")}
    if header["bench"] == "heldout":
        figures = heldout_figures(responses, resamples)
    else:
        figures = benchmark_figures(responses, config.aggregation, resamples)
        if header["expected_score"]:
            figures["expected"] = benchmark_figures(responses, config.aggregation, resamples, True)["honest"]
    print_figures(header["bench"] + (", blind" if header["blind"] else ""), figures, config.partial)
    return about | figures


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
