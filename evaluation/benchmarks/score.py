"""`python -m evaluation score`: the figures of a result file, ours or one of the official evaluation, without a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.benchmarks import load_benchmark
from evaluation.benchmarks.figures import benchmark_figures, both_rules
from evaluation.benchmarks.tables import read_json_lines
from evaluation.heldout import heldout_figures
from evaluation.options import ScoreConfig
from evaluation.responses import load_responses
from evaluation.terminal import print_table
from pipeline.figures import MISSING
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.store import header_or_none

PARTIAL_STATUS = 3


def official_file_figures(bench: str, file: Path, rows_file: Path | None, resamples: int) -> dict[str, Any]:
    """{"published", "honest"} of the official evaluation's result JSON. Raises UserError where it is not one."""
    try:
        results = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: neither a result file of ours nor one JSON object: {error}") from None
    if not isinstance(results, Mapping):
        raise UserError(f"{file}: expected one JSON object")
    rows = read_json_lines(rows_file) if rows_file else None
    samples = load_benchmark(bench).read_official_results(results, rows, file)
    figures = both_rules(bench, samples, samples, resamples, seed=0)
    # not in that file
    figures["honest"] |= dict.fromkeys(("verdicts", "unparsed_rate", "repaired_rate", "truncated_rate"))
    return figures


def file_figures(config: ScoreConfig) -> dict[str, Any]:
    """{"published", "honest"} of a result file, ours or the official evaluation's. Raises UserError where it is neither."""
    file, header = config.file, header_or_none(config.file)
    if header is None or "bench" not in header:
        if config.bench == "heldout":
            raise UserError(f"{file}: not a result file of held-out rows")
        return official_file_figures(config.bench, file, config.benchmark_rows, config.bootstrap_samples)
    responses = load_responses(file)
    if header["bench"] != config.bench:
        raise UserError(f"{file}: holds verdicts of {header['bench']}, not of {config.bench}")
    if config.expected_score and not header["expected_score"]:
        raise UserError(f"{file}: its verdicts hold no expected scores")
    if config.bench == "heldout":
        return heldout_figures(responses, config.bootstrap_samples)
    return benchmark_figures(responses, config.aggregation, config.bootstrap_samples, config.expected_score)


def flatten(figures: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(dotted name, value as text) of everything in nested figures but intervals and breakdowns."""
    flat: list[tuple[str, str]] = []
    for name, value in figures.items():
        if name == "intervals" or name.startswith(("by_", "accuracies")):
            continue
        if isinstance(value, Mapping):
            flat += flatten(value, f"{prefix}{name}.")
        else:
            text = MISSING if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
            flat.append((prefix + name, text))
    return flat


def print_figures(bench: str, figures: Mapping[str, Any], partial: bool) -> None:
    """Prints both scorings as tables; below full coverage they are called no result, or with `partial` a partial one."""
    coverage = figures["honest"].get("coverage", 0.0)
    suffix = "" if coverage == 1 else f": {'partial' if partial else 'NOT A RESULT'}, {coverage:.1%} coverage"
    if figures["published"] is not None:
        lines = [["published", "value"], *map(list, flatten(figures["published"]))]
        print_table(lines, f"{bench}, the published rule{suffix}")
    intervals = figures["honest"].get("intervals", {})
    lines = [["honest", "value", "95 % interval"]]
    for name, text in flatten(figures["honest"]):
        low, high = intervals.get(name, (None, None))
        lines.append([name, text, "" if low is None else f"[{low:.4f}, {high:.4f}]"])
    print_table(lines, f"{bench}, honest{suffix}")


def score(config: ScoreConfig) -> None:
    """Prints the figures of a file; exits with PARTIAL_STATUS where they are no result (as JSON, its coverage says so)."""
    figures = file_figures(config)
    if config.json_output:
        print(json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False))
        return
    print_figures(config.bench, figures, config.partial)
    if figures["honest"].get("coverage", 0.0) < 1 and not config.partial:
        sys.exit(PARTIAL_STATUS)
