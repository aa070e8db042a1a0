"""The benchmark report: every model with scores in `runs/NAME/benchmarks`, beside the published rows; Markdown, JSON, HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.benchmarks.paper import FOUR_CANDIDATES, OVERALL
from evaluation.benchmarks.read import BENCHES
from evaluation.benchmarks.scores import read_run
from evaluation.benchmarks.strict import Scored, honest
from evaluation.printed import print_table
from evaluation.recipe import EvalRecipe
from pipeline.figures import MISSING, format_figure
from spatial_edit_reward.files import write_json
from spatial_edit_reward.pages import render_page

Figures = Mapping[str, Any]
HEAD = [
    "benchmark",
    "model",
    "published rule",
    "pairs right [95 %]",
    "ties at half credit [95 %]",
    "top-1",
    "tau-b",
    "NDCG",
    "tied samples",
    "unparsed",
    "truncated",
    "coverage",
]
LABELS = (("by_dimension", "dimension"), ("by_category", "category"))
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


def headline(bench: str, figures: Figures | None) -> float | None:
    """The one number of a benchmark's published rule that papers compare."""
    if figures is None:
        return None
    path = {
        "merbench": ("exact_match_acc",),
        "editreward-bench": ("average_accuracies", "overall"),
        "tiger-editreward-bench": ("overall", "pairwise_accuracy"),
        "mmrb2": ("overall_accuracy",),
    }[bench]
    value: Any = figures
    for name in path:
        value = value[name]
    return None if value is None else float(value)


def cell(figures: Figures, name: str) -> str:
    """A figure with its interval where it has one."""
    return format_figure(figures.get(name), *figures.get("intervals", {}).get(name, ()))


def called(scores: Figures) -> str:
    """A model's name in the tables, with what it is not: whole, or shown the pictures."""
    coverage = scores["honest"].get("coverage", 0.0)
    name = str(scores["model"]) + (", blind" if scores["blind"] else "")
    name += f", avg@{scores['samples']}" if scores["samples"] > 1 else ""
    return name if coverage == 1 else f"{name} (PARTIAL, {coverage:.1%})"


def bench_line(bench: str, name: str, rule: float | None, figures: Figures) -> list[str]:
    """One line of the table."""
    interesting = ("pair_accuracy", "pair_accuracy_half")
    rest = ("top1_accuracy", "kendall_tau_b", "ndcg", "tie_rate", "unparsed_rate", "truncated_rate", "coverage")
    plain = {key: value for key, value in figures.items() if key != "intervals"}
    cells = [cell(figures, key) for key in interesting] + [cell(plain, key) for key in rest]
    return [bench, name, MISSING if rule is None else f"{rule:.3f}", *cells]


def blind_figures(rows: Sequence[Figures], resamples: int, seed: int) -> dict[str, Any]:
    """What a pointwise scorer without pictures gets: candidates of a sample are the same question to it, so all tie."""
    flat = [
        Scored(
            id=row["id"],
            ranks=tuple(one["rank"] for one in row["candidates"]),
            scores=(0.0,) * len(row["candidates"]),
            category=row["category"],
            dimension=row["dimension"],
            sources=row["sources"],
            group=row["group"],
        )
        for row in rows
    ]
    return honest(flat, resamples, seed)


def collect(folder: Path) -> dict[str, list[tuple[Path, dict[str, Any]]]]:
    """Benchmark -> (folder, scores) of every model that has scores there."""
    found: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for file in sorted(folder.glob("*/*/scores.json")):
        found.setdefault(file.parent.parent.name, []).append((file.parent, json.loads(file.read_text())))
    return found


def ranking_lines(bench: str, runs: Sequence[tuple[Path, Figures]], resamples: int) -> list[list[str]]:
    """The lines of a benchmark: our models, the same with expected scores, the blind row, the published rows."""
    lines = []
    for _, scores in runs:
        lines.append(bench_line(bench, called(scores), headline(bench, scores["published"]), scores["honest"]))
        if "expected" in scores:
            lines.append(bench_line(bench, f"{called(scores)}, expected score", None, scores["expected"]))
    run = read_run(runs[0][0] / "verdicts.jsonl")
    blind = blind_figures(run.head["rows"], resamples, run.head["seed"])
    lines.append(bench_line(bench, "any scorer without pictures (all tied)", None, blind))
    level = blind["chance"]
    lines.append(bench_line(bench, "chance", None, level | {"pair_accuracy_half": level["pair_accuracy"]}))
    for name, published in OVERALL.items():
        if bench in published:
            lines.append([bench, f"{name} (published)", f"{published[bench]:.3f}", *[MISSING for _ in HEAD[3:]]])
    return lines


def part_lines(bench: str, runs: Sequence[tuple[Path, Figures]]) -> list[list[str]]:
    """The breakdowns of a benchmark's models: by number of candidates, of sources, by category; and published ones."""
    lines = []
    for _, scores in runs:
        for kind, name in (("by_size", "candidates"), ("by_sources", "source pictures"), *LABELS):
            found = scores["honest"].get(kind, {})
            if kind != "by_size" and len(found) < 2:
                continue
            for part, figures in found.items():
                rates = [
                    cell(figures, one) for one in ("pair_accuracy", "pair_accuracy_half", "exact_order", "tie_rate")
                ]
                lines.append([bench, called(scores), f"{name}: {part}", str(figures["samples"]), *rates])
    if bench == "merbench":
        for model, value in FOUR_CANDIDATES.items():
            lines.append([bench, f"{model} (published)", "candidates: 4", "200", MISSING, MISSING, f"{value:.3f}", MISSING])
    return lines


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, the first line its head."""
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:]])


def write_report(recipe: EvalRecipe) -> None:
    """Writes report.md, report.json and report.html into `runs/NAME/benchmarks` over all scores there, and prints the table."""
    folder = recipe.run_dir / "benchmarks"
    found = collect(folder)
    if not found:
        return
    table, parts = (
        [HEAD],
        [["benchmark", "model", "part", "samples", "pairs right", "ties at half", "exact order", "tied"]],
    )
    galleries: list[dict[str, Any]] = []
    for bench in BENCHES:
        if bench in found:
            table += ranking_lines(bench, found[bench], recipe.bootstrap_samples)
            parts += part_lines(bench, found[bench])
            for place, scores in found[bench]:
                if (place / "wrong.json").exists():
                    cards = json.loads((place / "wrong.json").read_text())
                    galleries.append({"bench": bench, "model": called(scores), "cards": cards})
    heldout = [["held-out rows", *(name.replace("_", " ") for name in HELDOUT)]]
    heldout += [[called(s), *(cell(s["honest"], name) for name in HELDOUT)] for _, s in found.get("heldout", [])]
    printed = [(title, lines) for title, lines in (("Rankings", table), ("Held-out rows", heldout)) if len(lines) > 1]
    tables = printed + ([("Rankings, by part", parts)] if len(parts) > 1 else [])
    note = (
        "Rows marked (published) are arXiv 2602.07458's and secondary sources' figures by the published rule. "
        "Under it ties can count as right; the columns after it count them as wrong, or at half credit."
    )
    text = "\n\n".join(f"## {title}\n\n{markdown(lines)}" for title, lines in tables)
    (folder / "report.md").write_text(f"# Benchmarks\n\n{note}\n\n{text}\n")
    everything = {bench: [scores for _, scores in runs] for bench, runs in found.items()}
    write_json(folder / "report.json", {"runs": everything, "published_rows": OVERALL})
    page = folder / "report.html"
    render_page("benchmarks.html.j2", page, title="Benchmarks", note=note, tables=tables, galleries=galleries)
    for title, lines in printed:
        print_table(lines, title)
    print("\n".join(str(folder / name) for name in ("report.md", "report.json", "report.html")))
