"""The held-out report: one table over all models, `heldout.json`, and a page with curves and a gallery, worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from evaluation.metrics import METRICS, GroupSums, group_sums, interval, score_rows
from evaluation.printed import print_table
from evaluation.recipe import EvalRecipe
from pipeline.curves import curves_uri
from pipeline.figures import format_figure
from pipeline.rewards import read_rewards
from spatial_edit_reward import Spec, render
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.files import read_lines, write_json
from spatial_edit_reward.pages import Card, render_page

DIFFERENCES = (("sft", "base"), ("grpo", "sft"))
Figures = dict[str, dict[str, float | None]]


def bare_rows(rows: Dataset) -> list[dict[str, Any]]:
    """The rows without their images, as plain dictionaries."""
    return list(rows.remove_columns("images"))


def read_completions(file: Path, rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[bool]]:
    """(completions, truncated) in row order. Raises UserError where the file lacks a row."""
    lines = {line["id"]: line for line in read_lines(file)}
    missing = [row["id"] for row in rows if row["id"] not in lines]
    if missing:
        raise UserError(f"{file}: {len(missing)} of {len(rows)} verdicts missing, {missing[0]} first: run 'make eval'")
    return [lines[row["id"]]["completion"] for row in rows], [lines[row["id"]]["truncated"] for row in rows]


def table_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """The table as text: a head, then a line per metric with every model and difference."""
    head = ["metric", *report["models"], *report["differences"]]
    lines = [head]
    for metric in METRICS:
        cells = [format_figure(**figures[metric]) for figures in report["models"].values()]
        cells += [format_figure(**figures[metric], sign="+") for figures in report["differences"].values()]
        lines.append([metric, *cells])
    counts = [str(figures["valid_verdicts"]) for figures in report["counts"].values()]
    lines.append(["valid verdicts (of score_mae)", *counts, *["" for _ in report["differences"]]])
    return lines


def cards_worst_first(
    rows: Dataset, completions: Sequence[str], scored: Sequence[Mapping[str, Any]], count: int
) -> list[Card]:
    """The cards of the `count` rows with the lowest reward."""
    worst = sorted(range(len(rows)), key=lambda place: scored[place]["reward"])[:count]
    cards = []
    for place in worst:
        row = rows[place]
        try:
            expected = render(row["task"], row["reference"])
        except ValueError:  # a reference without a rationale
            expected = ""
        figures = {name: scored[place][name] for name in ("reward", "box_iou", "score_agreement", "format")}
        cards.append(Card.of(row, row["images"], completions[place], expected, figures))
    return cards


def make_report(recipe: EvalRecipe, rows: Dataset, spec: Spec) -> dict[str, Any]:
    """Computes, prints and saves the report of every model's verdicts in `run_dir/eval`; returns what `heldout.json` holds."""
    plain = bare_rows(rows)
    selected = read_rewards(recipe.rewards_from, score_range=spec.score_range)
    said: dict[str, list[str]] = {}
    sums: dict[str, dict[str, GroupSums]] = {}
    counts: dict[str, dict[str, int]] = {}
    for name in recipe.models():
        completions, truncated = read_completions(recipe.run_dir / "eval" / f"{name}.jsonl", plain)
        scored = score_rows(plain, completions, selected.rewards, selected.weights, spec, rows["images"])
        sums[name] = group_sums(plain, scored, truncated, spec)
        counts[name] = {"valid_verdicts": sum(values["format"] == 1.0 for values in scored)}
        said[name], last = completions, (completions, scored)

    def figures(of: Mapping[str, GroupSums], minus: Mapping[str, GroupSums] | None = None) -> Figures:
        return {
            metric: interval(of[metric], recipe.bootstrap_samples, recipe.seed, minus[metric] if minus else None)
            for metric in METRICS
        }

    report = {
        "rows": {task: sum(row["task"] == task for row in plain) for task in ("sc", "pq")},
        "models": {name: figures(of) for name, of in sums.items()},
        "differences": {f"{new}-{old}": figures(sums[new], sums[old]) for new, old in DIFFERENCES},
        "counts": counts,
        "merged_equals_grpo": {
            "same": sum(a == b for a, b in zip(said["merged"], said["grpo"], strict=True)),
            "rows": len(plain),
        },
    }
    folder = recipe.run_dir / "report"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "heldout.json", report)
    lines = table_rows(report)
    title = f"held out: {report['rows']['sc']} sc and {report['rows']['pq']} pq rows, mean [95 % interval]"
    render_page(
        "report.html.j2",
        folder / "report.html",
        title="Held-out report",
        subtitle=title,
        lines=lines,
        curves=curves_uri(recipe.run_dir),
        shown=cards_worst_first(rows, *last, recipe.gallery_rows),
    )
    print_table(lines, title)
    same = report["merged_equals_grpo"]
    print(f"merged and after GRPO say the same on {same['same']} of {same['rows']} rows")
    print(f"{folder / 'heldout.json'}\n{folder / 'report.html'}")
    return report
