"""`python -m evaluation score`: the figures of a result file, ours or one of the published evaluation, without a model."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.benchmarks import heldout, published
from evaluation.benchmarks.scores import Aggregation, both_rules, read_run
from evaluation.benchmarks.strict import Scored, honest, pairwise_by_dimension
from evaluation.benchmarks.tables import read_json_lines
from evaluation.printed import print_table
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.store import header_or_none

PARTIAL_STATUS = 3
Rows = Sequence[Mapping[str, Any]]


def number(value: Any) -> float | None:
    """`value` if it is a finite number, else None."""
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if usable else None


def needed(row: Any, key: str, where: str) -> Any:
    """`row[key]`. Raises UserError where `row` is no object with that key."""
    if not isinstance(row, Mapping) or key not in row:
        raise UserError(f"{where}: no {key!r} there")
    return row[key]


def is_permutation(found: Any) -> bool:
    """Whether `found` lists 0 to n-1 once each, n at least 1."""
    whole = isinstance(found, list) and all(type(place) is int for place in found)
    return whole and bool(found) and sorted(found) == list(range(len(found)))


def size_of(row: Mapping[str, Any], where: str) -> int:
    """How many candidates a sample of MER-Bench has: its `pair_type`, else the length of what it lists, else 2."""
    if "pair_type" in row:
        size = str(row["pair_type"]).removesuffix("pair")
        if size not in ("2", "3", "4"):
            raise UserError(f"{where}: pair_type must be 2, 3 or 4, got {row['pair_type']!r}")
        return int(size)
    lists = (row.get(name) for name in ("pred_rank", "gt_rank", "scores", "edited_images"))
    return next((len(found) for found in lists if isinstance(found, list) and found), 2)


def merbench(results: Mapping[str, Any], rows: Rows | None, file: Path) -> tuple[dict[str, Any], list[Scored]]:
    """(published figures, samples) of MER-Bench's result JSON: pair_id -> {scores, pred_rank, gt_rank, label, pair_type}.

    `rows`: the benchmark's, for samples that the results lack.
    """
    ranked, samples = [], []
    sizes: dict[str, int] = {}  # of what has no result
    labels: dict[str, str] = {}
    for place, row in enumerate(rows or ()):
        name = str(needed(row, "pair_id", f"benchmark row {place + 1}"))
        sizes[name], labels[name] = size_of(row, f"benchmark row {place + 1}"), str(row.get("label", ""))
    for name, result in results.items():
        where = f"{file}: {name}"
        if not isinstance(result, Mapping):
            raise UserError(f"{where}: expected an object")
        labels[name] = str(result.get("label", labels.get(name, "")))
        if "pred_rank" not in result or "gt_rank" not in result:  # the published rule passes over it
            sizes.setdefault(name, size_of(result, where))
            continue
        pred, true, scores = result["pred_rank"], result["gt_rank"], result.get("scores") or []
        if not is_permutation(pred) or not is_permutation(true) or len(pred) != len(true):
            raise UserError(f"{where}: pred_rank and gt_rank must each list the candidates 0 to n-1 once")
        if scores and len(scores) != len(pred):
            raise UserError(f"{where}: {len(scores)} scores for {len(pred)} candidates")
        ranked.append(published.Ranked(pred, true, scores, labels[name], size_of(result, where)))
        by_place = [number(score) for score in scores] or [-float(pred.index(place)) for place in range(len(pred))]
        ranks = tuple(true.index(place) for place in range(len(true)))
        samples.append(Scored(name, ranks, tuple(by_place), labels[name], complete=None not in by_place))
        sizes.pop(name, None)
    for name, size in sizes.items():
        samples.append(Scored(name, tuple(range(size)), (None,) * size, labels[name], complete=False))
    return published.merbench(ranked), samples


def editreward_bench(results: Mapping[str, Any], rows: Rows, file: Path) -> tuple[dict[str, Any], list[Scored]]:
    """(published figures, samples) of EditReward-Bench's result JSON: key -> {scores: {dimension: x}}."""
    pairs, samples = [], []
    for place, row in enumerate(rows):
        where = f"benchmark row {place + 1}"
        keys, dimension = needed(row, "key", where), str(needed(row, "dimension", where))
        kind = str(needed(row, "task_type", where))
        if not isinstance(keys, list) or len(keys) != 2:
            raise UserError(f"{where}: key must be a list of two, got {keys!r}")
        first, second = (_scored(results, str(key), dimension, file) for key in keys)
        pairs.append(published.Compared(kind, dimension, first, second))
        complete = first is not None and second is not None
        samples.append(Scored(str(place), (0, 1), (first, second), kind, dimension, complete=complete))
    return published.editreward_bench(pairs), samples


def mmrb2(results: Mapping[str, Any], rows: Rows, file: Path) -> tuple[dict[str, Any], list[Scored]]:
    """(published figures, samples) of MMRB2's result JSON: pair id with _A or _B -> {scores: {overall: x}}."""
    pairs, samples = [], []
    for place, row in enumerate(rows):
        where = f"benchmark row {place + 1}"
        name = str(row["pair_id"] if "pair_id" in row else needed(row, "id", where))
        chosen = str(needed(row, "chosen", where)).upper()
        if chosen not in ("A", "B"):
            raise UserError(f"{where}: chosen must be A or B, got {row['chosen']!r}")
        a, b = (_scored(results, f"{name}_{letter}", "overall", file) for letter in "AB")
        images = row.get("prompt_images") or [one for one in row.get("prompt_content", ()) if one[0] == "image"]
        source = str(row.get("prompt_source") or "unknown")
        pairs.append(published.Preferred(a, b, chosen, source, len(images)))
        ranks = (0, 1) if chosen == "A" else (1, 0)
        complete = a is not None and b is not None
        samples.append(Scored(name, ranks, (a, b), source, sources=len(images), complete=complete))
    return published.mmrb2(pairs), samples


def _scored(results: Mapping[str, Any], key: str, dimension: str, file: Path) -> float | None:
    if key not in results:
        return None
    scores = needed(results[key], "scores", f"{file}: {key}")
    return number(scores.get(dimension)) if isinstance(scores, Mapping) else None


def of_published_file(bench: str, file: Path, rows_file: Path | None, resamples: int, seed: int) -> dict[str, Any]:
    """{"published", "honest"} of the published evaluation's result JSON. Raises UserError where it is not one."""
    try:
        results = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: neither a result file of ours nor one JSON object: {error}") from None
    if not isinstance(results, Mapping):
        raise UserError(f"{file}: expected one JSON object")
    rows = read_json_lines(rows_file) if rows_file else None
    if bench == "merbench":
        figures, samples = merbench(results, rows, file)
    elif bench in ("editreward-bench", "mmrb2"):
        if rows is None:
            raise UserError(f"{bench}: the benchmark's rows are needed beside the results: --benchmark-rows FILE.jsonl")
        figures, samples = (editreward_bench if bench == "editreward-bench" else mmrb2)(results, rows, file)
    else:
        raise UserError(f"{bench}: only result files of this project can be scored")
    mine = honest(samples, resamples, seed)
    if bench == "editreward-bench":
        mine |= pairwise_by_dimension(samples, published.DIMENSIONS)
    unknown = dict.fromkeys(("verdicts", "unparsed_rate", "repaired_rate", "truncated_rate"))  # not in that file
    return {"published": figures, "honest": mine | unknown}


def is_ours(file: Path) -> bool:
    """Whether `file` begins as a result file of a benchmark does. Raises UserError for one that cannot be read."""
    head = header_or_none(file)
    return head is not None and "bench" in head


def figures_of(
    bench: str, file: Path, rows_file: Path | None, how: Aggregation, resamples: int, expected: bool = False
) -> dict[str, Any]:
    """{"published", "honest"} of a result file, ours or the published evaluation's. Raises UserError where it is neither."""
    if not is_ours(file):
        if bench == "heldout":
            raise UserError(f"{file}: not a result file of held-out rows")
        return of_published_file(bench, file, rows_file, resamples, 0)
    run = read_run(file)
    if run.head["bench"] != bench:
        raise UserError(f"{file}: holds verdicts of {run.head['bench']}, not of {bench}")
    if expected and not run.head["expected_score"]:
        raise UserError(f"{file}: its verdicts hold no expected scores")
    return heldout.figures(run, resamples) if bench == "heldout" else both_rules(run, how, resamples, expected)


def flat(figures: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted name, value) of everything in nested figures but intervals and breakdowns."""
    found: list[tuple[str, Any]] = []
    for name, value in figures.items():
        if name == "intervals" or name.startswith(("by_", "accuracies")):
            continue
        found += flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]
    return found


def shown(value: Any) -> str:
    return "–" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def print_figures(bench: str, figures: Mapping[str, Any], partial: bool) -> None:
    """Prints both scorings as tables; below full coverage they are called no result, or with `partial` a partial one."""
    coverage = figures["honest"].get("coverage", 0.0)
    called = "" if coverage == 1 else f": {'partial' if partial else 'NOT A RESULT'}, {coverage:.1%} coverage"
    if figures["published"] is not None:
        lines = [["published", "value"], *([name, shown(value)] for name, value in flat(figures["published"]))]
        print_table(lines, f"{bench}, the published rule{called}")
    intervals = figures["honest"].get("intervals", {})
    lines = [["honest", "value", "95 % interval"]]
    for name, value in flat(figures["honest"]):
        low, high = intervals.get(name, (None, None))
        lines.append([name, shown(value), "" if low is None else f"[{low:.4f}, {high:.4f}]"])
    print_table(lines, f"{bench}, honest{called}")


def score(
    bench: str,
    file: Path,
    rows_file: Path | None,
    how: Aggregation,
    as_json: bool,
    partial: bool,
    resamples: int,
    expected: bool = False,
) -> None:
    """Prints the figures of `file`; exits with PARTIAL_STATUS where they are no result (`as_json` tells by its coverage)."""
    figures = figures_of(bench, file, rows_file, how, resamples, expected)
    if as_json:
        print(json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False))
        return
    print_figures(bench, figures, partial)
    if figures["honest"].get("coverage", 0.0) < 1 and not partial:
        sys.exit(PARTIAL_STATUS)
