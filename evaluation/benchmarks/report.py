"""The benchmark report: every model with scores in `runs/NAME/benchmarks`, beside the papers' rows; Markdown, JSON, HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.benchmarks import BENCHMARKS, load_benchmark
from evaluation.benchmarks.figures import blind_samples
from evaluation.benchmarks.merbench import PAPER_FOUR_CANDIDATES
from evaluation.benchmarks.strict import strict_figures
from evaluation.recipe import EvalRecipe
from evaluation.terminal import print_table
from pipeline.figures import MISSING, format_figure
from spatial_edit_reward.files import write_json
from spatial_edit_reward.inference.store import read_header
from spatial_edit_reward.pages import render_page

Figures = Mapping[str, Any]
Runs = Sequence[tuple[Path, Figures]]
# Column -> figure; the first two with their intervals.
RANKING = {
    "pairs right [95 %]": "pair_accuracy",
    "ties at half credit [95 %]": "pair_accuracy_half",
    "top-1": "top1_accuracy",
    "tau-b": "kendall_tau_b",
    "NDCG": "ndcg",
    "tied samples": "tie_rate",
    "unparsed": "unparsed_rate",
    "truncated": "truncated_rate",
    "coverage": "coverage",
}
PART = {
    "pairs right": "pair_accuracy",
    "ties at half": "pair_accuracy_half",
    "exact order": "exact_order",
    "tied": "tie_rate",
}
PARTS = {
    "by_size": "candidates",
    "by_sources": "source images",
    "by_dimension": "dimension",
    "by_category": "category",
}
HELDOUT = (
    "score_agreement",
    "reward",
    "valid",
    "mean_box_iou",
    "empty_region_precision",
    "empty_region_recall",
    "ranking_accuracy",
    "truncated_rate",
    "coverage",
)
NOTE = (
    "Rows marked (published) are arXiv 2602.07458's and secondary sources' figures by the official rule. "
    "Under it ties can count as right; the columns after it count them as wrong, or at half credit."
)


def cell(figures: Figures, name: str) -> str:
    """A figure with its interval where it has one."""
    return format_figure(figures.get(name), *figures.get("intervals", {}).get(name, ()))


def model_name(scores: Figures) -> str:
    """A model in the tables, and whether it is blind, averaged or not complete."""
    coverage = scores["honest"].get("coverage", 0.0)
    name = str(scores["model"]) + (", blind" if scores["blind"] else "")
    name += f", avg@{scores['samples']}" if scores["samples"] > 1 else ""
    return name if coverage == 1 else f"{name} (PARTIAL, {coverage:.1%})"


def ranking_line(bench: str, name: str, headline: float | None, figures: Figures) -> list[str]:
    """A line of the table of rankings."""
    shown = list(RANKING.values())
    intervals = {figure: figures.get("intervals", {}).get(figure, ()) for figure in shown[:2]}
    return [bench, name, format_figure(headline), *(cell({**figures, "intervals": intervals}, one) for one in shown)]


def ranking_lines(bench: str, runs: Runs, resamples: int) -> list[list[str]]:
    """The lines of a benchmark: our models, the same with expected scores, the blind row, chance, the papers' rows."""
    module, lines = load_benchmark(bench), []
    for _, scores in runs:
        headline = scores["published"]
        for key in module.HEADLINE:
            headline = headline[key]
        lines.append(ranking_line(bench, model_name(scores), headline, scores["honest"]))
        if "expected" in scores:
            lines.append(ranking_line(bench, f"{model_name(scores)}, expected score", None, scores["expected"]))
    header = read_header(runs[0][0] / "verdicts.jsonl")
    blind = strict_figures(blind_samples(header["rows"]), resamples, header["seed"])
    lines.append(ranking_line(bench, "any scorer without images (all tied)", None, blind))
    chance = blind["chance"]
    lines.append(ranking_line(bench, "chance", None, chance | {"pair_accuracy_half": chance["pair_accuracy"]}))
    for name, value in module.PAPER.items():
        lines.append([bench, f"{name} (published)", format_figure(value), *[MISSING] * len(RANKING)])
    return lines


def part_lines(bench: str, runs: Runs) -> list[list[str]]:
    """The breakdowns of a benchmark's models: by number of candidates, of sources, by category; and the papers'."""
    lines = []
    for _, scores in runs:
        for key, name in PARTS.items():
            parts = scores["honest"].get(key, {})
            if key == "by_size" or len(parts) > 1:
                for part, figures in parts.items():
                    cells = [cell(figures, figure) for figure in PART.values()]
                    lines.append([bench, model_name(scores), f"{name}: {part}", str(figures["samples"]), *cells])
    if bench == "merbench":
        for model, value in PAPER_FOUR_CANDIDATES.items():
            cells = [MISSING, MISSING, format_figure(value), MISSING]
            lines.append([bench, f"{model} (published)", "candidates: 4", "200", *cells])
    return lines


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, the first line its head."""
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:]])


def read_runs(folder: Path) -> dict[str, list[tuple[Path, Figures]]]:
    """Benchmark -> (folder, scores) of every model that has scores there."""
    runs: dict[str, list[tuple[Path, Figures]]] = {}
    for file in sorted(folder.glob("*/*/scores.json")):
        runs.setdefault(file.parent.parent.name, []).append((file.parent, json.loads(file.read_bytes())))
    return runs


def make_tables(runs: Mapping[str, Runs], resamples: int) -> dict[str, list[list[str]]]:
    """Title -> lines of every table that has any, the first line its head."""
    rankings = [["benchmark", "model", "official rule", *RANKING]]
    parts = [["benchmark", "model", "part", "samples", *PART]]
    for bench in BENCHMARKS:
        if bench in runs:
            rankings += ranking_lines(bench, runs[bench], resamples)
            parts += part_lines(bench, runs[bench])
    heldout = [["held-out rows", *(name.replace("_", " ") for name in HELDOUT)]]
    heldout += [[model_name(s), *(cell(s["honest"], name) for name in HELDOUT)] for _, s in runs.get("heldout", [])]
    tables = {"Rankings": rankings, "Held-out rows": heldout, "Rankings, by part": parts}
    return {title: lines for title, lines in tables.items() if len(lines) > 1}


def write_report(recipe: EvalRecipe) -> None:
    """Writes report.md, report.json and report.html into `runs/NAME/benchmarks` over all scores there, and prints the table."""
    folder = recipe.run_dir / "benchmarks"
    runs = read_runs(folder)
    if not runs:
        return
    tables = make_tables(runs, recipe.bootstrap_samples)
    text = "\n\n".join(f"## {title}\n\n{markdown(lines)}" for title, lines in tables.items())
    (folder / "report.md").write_text(f"# Benchmarks\n\n{NOTE}\n\n{text}\n", encoding="utf-8")
    paper: dict[str, dict[str, float]] = {}
    for bench in BENCHMARKS:
        for name, value in load_benchmark(bench).PAPER.items():
            paper.setdefault(name, {})[bench] = value
    everything = {bench: [scores for _, scores in of] for bench, of in runs.items()}
    write_json(folder / "report.json", {"runs": everything, "published_rows": paper})
    failures = [
        {
            "bench": load_benchmark(bench).TITLE,
            "model": model_name(scores),
            "cards": json.loads((run / "wrong.json").read_bytes()),
        }
        for bench in BENCHMARKS
        for run, scores in runs.get(bench, [])
        if (run / "wrong.json").exists()
    ]
    page = folder / "report.html"
    shown = list(tables.items())
    render_page("benchmarks.html.j2", page, title="Benchmarks", note=NOTE, tables=shown, failures=failures)
    for title, lines in shown[:2] if "Rankings, by part" not in tables else shown[:-1]:
        print_table(lines, title)
    print("\n".join(str(folder / name) for name in ("report.md", "report.json", "report.html")))
