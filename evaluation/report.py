"""The held-out report: one table over all models, `heldout.json`, and a page with curves and the worst verdicts first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data.rows import load_rows
from evaluation.heldout import empty_regions
from evaluation.metrics import GroupSums, group_sums, interval, score_rows
from evaluation.recipe import EvalRecipe
from evaluation.responses import read_completions
from evaluation.terminal import print_table
from pipeline.figures import format_figure
from pipeline.folders import require, require_finished, stage_lock
from pipeline.rewards import read_rewards
from spatial_edit_reward import load_spec, render
from spatial_edit_reward.files import write_json
from spatial_edit_reward.pages import Card, render_page

if TYPE_CHECKING:
    from data.stored_rows import StoredRows

DIFFERENCES = (("sft", "base"), ("grpo", "sft"))
Figures = dict[str, dict[str, float | None]]


def table_lines(report: Mapping[str, Any], regions: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The table as text: a head, then a line per metric with every model and difference; `regions`: `empty_regions` of each."""
    models, differences = report["models"], report["differences"]
    lines = [["metric", *models, *differences]]
    for metric in next(iter(models.values())):
        cells = [format_figure(**figures[metric]) for figures in models.values()]
        cells += [format_figure(**figures[metric], sign="+") for figures in differences.values()]
        lines.append([metric, *cells])
    blank = [""] * len(differences)
    for name in ("empty_region_precision", "empty_region_recall"):
        lines.append([name, *(format_figure(figures[name]) for figures in regions.values()), *blank])
    counts = [str(figures["valid_verdicts"]) for figures in report["counts"].values()]
    return [*lines, ["valid verdicts (of score_mae)", *counts, *blank]]


def cards_worst_first(
    rows: StoredRows, completions: Sequence[str], scored: Sequence[Mapping[str, Any]], count: int = 24
) -> list[Card]:
    """The cards of the `count` rows with the lowest reward; rows to which no reward applies come last."""
    order = sorted(range(len(rows)), key=lambda i: (scored[i]["reward"] is None, scored[i]["reward"]))
    cards = []
    for i in order[:count]:
        row = rows[i]
        try:
            expected = render(row["task"], row["reference"])
        except ValueError:  # a reference without a rationale
            expected = ""
        rewards = {name: value for name, value in scored[i].items() if name != "scores"}
        cards.append(
            Card.from_row(row, row["images"], completions[i], expected, {"reward": rewards.pop("reward"), **rewards})
        )
    return cards


def make_report(recipe: EvalRecipe) -> dict[str, Any]:
    """Computes, prints and saves the report over every model's verdicts in `run_dir/eval`; returns what `heldout.json` holds.

    Raises UserError where an earlier stage is missing.
    """
    from pipeline.curves import curves_uri  # draws with matplotlib

    require_finished(recipe.run_dir / "eval", "eval")
    spec = load_spec(require(recipe.run_dir / "merge", "merge"))
    rows = load_rows(require(recipe.run_dir / "data" / "heldout.parquet", "data"), spec)
    plain, rewards = list(rows.texts()), read_rewards(recipe.rewards_from, score_range=spec.score_range)
    completions: dict[str, list[str]] = {}
    sums: dict[str, dict[str, GroupSums]] = {}
    counts: dict[str, dict[str, int]] = {}
    regions: dict[str, dict[str, float | None]] = {}
    for name in recipe.models():
        texts, truncated = read_completions(recipe.run_dir / "eval" / f"{name}.jsonl", plain)
        scored = score_rows(plain, texts, rewards.rewards, rewards.weights, spec, rows.images())
        completions[name], sums[name] = texts, group_sums(plain, scored, truncated, spec)
        counts[name] = {"valid_verdicts": sum(values["format"] == 1.0 for values in scored)}
        regions[name] = empty_regions([(row, {"text": text}) for row, text in zip(plain, texts, strict=True)])
    same = sum(a == b for a, b in zip(completions["merged"], completions["grpo"], strict=True))
    report = {
        "rows": {task: sum(row["task"] == task for row in plain) for task in ("sc", "pq")},
        "models": {name: intervals(recipe, of) for name, of in sums.items()},
        "differences": {f"{new}-{old}": intervals(recipe, sums[new], sums[old]) for new, old in DIFFERENCES},
        "counts": counts,
        "merged_equals_grpo": {"same": same, "rows": len(plain)},
    }
    folder = recipe.run_dir / "report"
    lines = table_lines(report, regions)
    title = f"held out: {report['rows']['sc']} sc and {report['rows']['pq']} pq rows, mean [95 % interval]"
    content = {"title": "Held-out report", "subtitle": title, "lines": lines, "curves": curves_uri(recipe.run_dir)}
    cards = cards_worst_first(rows, completions["merged"], scored)  # the last model's
    with stage_lock(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "heldout.json", report)
        render_page("report.html.j2", folder / "report.html", **content, shown=cards)
    print_table(lines, title)
    print(f"the merged model and the one after GRPO write the same verdict on {same} of {len(plain)} rows")
    print(f"{folder / 'heldout.json'}\n{folder / 'report.html'}")
    return report


def intervals(recipe: EvalRecipe, of: Mapping[str, GroupSums], minus: Mapping[str, GroupSums] | None = None) -> Figures:
    """The interval of every metric `of` a model, or of its difference to the model `minus`."""
    samples, seed = recipe.bootstrap_samples, recipe.seed
    return {metric: interval(sums, samples, seed, minus[metric] if minus else None) for metric, sums in of.items()}
