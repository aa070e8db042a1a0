"""The verbs `bench` and `score` of `python -m evaluation`. Imports nothing slow before one of them runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evaluation.recipe import EvalRecipe
from pipeline.recipe import load_config
from spatial_edit_reward.errors import UserError


def add_benchmark_verbs(verbs: Any) -> None:
    """The verbs `bench` and `score`."""
    names = ("heldout", "merbench", "editreward-bench", "tiger-editreward-bench", "mmrb2")
    bench = verbs.add_parser("bench", help="ask a model about a benchmark, and score what it says")
    bench.add_argument("bench", choices=[*names, "all"])
    bench.add_argument("--config", type=Path, required=True, help="the recipe's eval.yaml")
    bench.add_argument("--model", required=True, help="folder of a checkpoint, Hub id, or name at an endpoint")
    bench.add_argument("--backend", default="transformers", help="transformers, vllm or openai (default: %(default)s)")
    bench.add_argument("--spec", type=Path, help="folder with the verdict.json to use, for a model that has none")
    bench.add_argument(
        "--data", type=Path, help="local copy: a folder, or one with a folder per benchmark; else the Hub"
    )
    bench.add_argument("--batch_size", type=int, help="questions at once (default: the recipe's)")
    bench.add_argument(
        "--samples", type=int, default=1, help="verdicts per question, their scores averaged (default: 1)"
    )
    bench.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    bench.add_argument("--expected_score", action="store_true", help="scores by the score tokens' probabilities beside")
    bench.add_argument(
        "--prices",
        type=float,
        nargs=2,
        metavar=("PROMPT", "COMPLETION"),
        help="an endpoint's, in dollars per million tokens: what the run cost is said at its end",
    )
    bench.add_argument(
        "--extra_body", default="{}", metavar="JSON", help="further fields of a request to an endpoint (default: none)"
    )
    bench.add_argument("--overwrite", action="store_true", help="start over")
    scoring = verbs.add_parser(
        "score", help="the figures of a result file, ours or the published evaluation's, without a model"
    )
    scoring.add_argument("bench", choices=names)
    scoring.add_argument("file", type=Path, help="verdicts.jsonl, or the published evaluation's result JSON")
    scoring.add_argument(
        "--benchmark-rows", type=Path, help="the benchmark's rows as JSON lines, beside a published result"
    )
    scoring.add_argument("--json", action="store_true", help="one object with `published` and `honest`")
    scoring.add_argument("--expected_score", action="store_true", help="use the expected scores in the file")
    scoring.add_argument("--bootstrap_samples", type=int, default=2000, help="(default: %(default)s)")
    for verb in (bench, scoring):
        verb.add_argument("--aggregation", choices=["weighted", "min", "mean"], default="weighted")
        verb.add_argument("--partial", action="store_true", help="show figures below full coverage, as partial ones")


def run_bench(arguments: argparse.Namespace) -> None:
    from evaluation.benchmarks.run import BenchmarkConfig, run_benchmarks

    recipe = load_config(arguments.config, EvalRecipe)
    said = {name: value for name, value in vars(arguments).items() if name not in ("verb", "config")}
    said["batch_size"] = arguments.batch_size or recipe.batch_size
    try:
        asking = BenchmarkConfig.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--{first['loc'][0]}: {first['msg']}, got {first['input']!r}") from None
    run_benchmarks(recipe, asking)


def run_score(arguments: argparse.Namespace) -> None:
    from evaluation.benchmarks.score import score

    score(
        arguments.bench,
        arguments.file,
        arguments.benchmark_rows,
        arguments.aggregation,
        arguments.json,
        arguments.partial,
        arguments.bootstrap_samples,
        arguments.expected_score,
    )
