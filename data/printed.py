"""The report's tables as they are printed: rows by source, faults with an example each, splits, histograms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from data.cleaning.fixer import KINDS


def histograms(report: Mapping[str, Any]) -> Table:
    """Scores, boxes and tokens, a line each: lowest and highest value, and the share of each value as a bar."""
    lines = {
        f"{task} score {place + 1}": counts
        for task, scores in report["scores"].items()
        for place, counts in scores.items()
    }
    lines["boxes in an sc row"] = report["boxes"]["per_sc_row"]
    lines["box area, % of the picture"] = report["boxes"]["area_percent"]
    if report["tokens"]:
        lines["tokens of a row"] = report["tokens"]["of_rows"]
    table = Table("of the rows kept", "from", "to", "how many", title="histograms")
    for name, counts in lines.items():
        if counts:
            values = [int(value) for value in counts]
            table.add_row(name, str(min(values)), str(max(values)), bars(list(counts.values())))
    return table


def bars(counts: Sequence[int]) -> str:
    """One character a count, as high as its share of the largest."""
    return "".join("▁▂▃▄▅▆▇█"[round(7 * count / max(counts))] for count in counts)


def print_report(report: Mapping[str, Any]) -> None:
    """The report's tables on stdout: sources, faults with an example each, splits."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    sources = Table("source", title="rows read")
    for name in ("in", "kept", "fixed", "dropped"):
        sources.add_column(name, justify="right")
    for name, of in report["sources"].items():
        cells = (of["in"], of["kept"], of["fixed_rows"], of["in"] - of["kept"])
        sources.add_row(name, *map(str, cells))
    console.print(sources)
    if report["examples"]:
        faults = Table("fault", "what it is", "source", title="faults")
        faults.add_column("fixed", justify="right")
        faults.add_column("dropped", justify="right")
        faults.add_column("for example")
        for kind, example in report["examples"].items():
            for name, of in report["sources"].items():
                fixed, dropped = of["fixed"].get(kind, 0), of["dropped"].get(kind, 0)
                if fixed or dropped:
                    faults.add_row(kind, KINDS[kind].meaning, name, str(fixed), str(dropped), example["id"])
        console.print(faults)
    splits = Table("split", title="rows")
    for name in ("rows", "sc", "pq", "sc with region"):
        splits.add_column(name, justify="right")
    for split, counts in report["splits"].items():
        splits.add_row(split, *(str(counts[key]) for key in ("rows", "sc", "pq", "sc_with_region")))
    console.print(splits)
    console.print(histograms(report))
    images = report["images"]
    shown = ", ".join(f"{size} {count}" for size, count in Counter(images["by_size"]).most_common(5))
    console.print(
        f"{images['count']} images ({shown}), {images['kept_their_bytes']} with their own bytes, resized ones stored as "
        f"{images['resized_stored_as']}",
        highlight=False,
    )
    for name in report["not_usable_for_sft"]:
        console.print(
            f"{name}: human scores without words: references for stage 2, not usable for SFT", highlight=False
        )
