"""The data report as it is printed: rows by source, what was dropped and fixed and why, splits, histograms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from data.cleaning.fixer import KINDS


def print_report(report: Mapping[str, Any]) -> None:
    """The report's tables and lists on stdout."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    sources = [
        (name, rows["in"], rows["kept"], rows["fixed_rows"], rows["in"] - rows["kept"])
        for name, rows in report["sources"].items()
    ]
    console.print(table("rows read", ("source", "in", "kept", "of them fixed", "dropped"), sources))
    for action in ("dropped", "fixed"):
        for line in reasons(report, action):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    splits = [(name, *(rows[key] for key in SPLIT_COLUMNS)) for name, rows in report["splits"].items()]
    console.print(table("rows written", ("split", *SPLIT_COLUMNS.values()), splits))
    console.print(histograms(report))
    images = report["images"]
    sizes = ", ".join(f"{size} {count}" for size, count in Counter(images["by_size"]).most_common(5))
    console.print(
        f"{images['count']} images ({sizes}), {images['kept_their_bytes']} with their own bytes, resized ones stored as "
        f"{images['resized_stored_as']}",
        highlight=False,
    )
    for source, counts in report["duplicates"].items():
        owners = ", ".join(f"{count} of {owner}" for owner, count in counts.items())
        console.print(f"{source}: rows with the images and instruction of an earlier row: {owners}", highlight=False)
    for source, counts in report["joined"].items():
        by_split = ", ".join(f"{count} {split}" for split, count in counts.items())
        console.print(
            f"{source}: rows without an answer, by the split of the row that has it: {by_split}", highlight=False
        )
    for note in report["notes"]:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    for name in report["not_usable_for_sft"]:
        console.print(
            f"{name}: human scores without words: references for stage 2, not usable for SFT", highlight=False
        )


SPLIT_COLUMNS = {"rows": "rows", "sc": "sc", "pq": "pq", "sc_with_region": "sc with region"}


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """A table whose first column holds names and whose other ones hold numbers."""
    result = Table(columns[0], title=title, title_justify="left")
    for column in columns[1:]:
        result.add_column(column, justify="right")
    for row in rows:
        result.add_row(*map(str, row))
    return result


def reasons(report: Mapping[str, Any], action: str) -> list[str]:
    """Two lines for each kind of row that was "dropped" or "fixed", the most frequent first: what it is, and one example.

    The number of rows stands before the kind, that of each source after it where there are several.
    """
    counts = {name: rows[action] for name, rows in report["sources"].items()}
    total = sum((Counter(kinds) for kinds in counts.values()), Counter())
    lines = [f"{action}, by reason:"] if total else []
    for kind, count in total.most_common():
        meaning, fix = KINDS[kind].meaning, KINDS[kind].fix
        if fix:
            meaning += f" ({fix})" if action == "fixed" else f" (with `policy: {{{kind}: fix}}` it is {fix})"
        if len(counts) > 1:
            meaning += f" [{', '.join(f'{name} {kinds[kind]}' for name, kinds in counts.items() if kind in kinds)}]"
        example = report["examples"][kind]
        lines += [f"{count:>7}  {kind}: {meaning}", f"         e.g. {example['location']}: {example['detail']}"]
    return lines


def histograms(report: Mapping[str, Any]) -> Table:
    """Scores, boxes and tokens, a line each: lowest and highest value, and the share of each value as a bar."""
    lines = {
        f"{task} score {int(index) + 1}": counts
        for task, scores in report["scores"].items()
        for index, counts in scores.items()
    }
    lines["boxes in an sc row"] = report["boxes"]["per_sc_row"]
    lines["box area, % of the image"] = report["boxes"]["area_percent"]
    if report["tokens"]:
        lines["tokens of a row"] = report["tokens"]["of_rows"]
    result = Table("of the rows kept", "from", "to", "how many", title="histograms", title_justify="left")
    for name, counts in lines.items():
        if counts:
            values = [int(value) for value in counts]
            result.add_row(name, str(min(values)), str(max(values)), bars(list(counts.values())))
    return result


def bars(counts: Sequence[int]) -> str:
    """One block character a count, as high as its share of the largest."""
    return "".join(chr(0x2581 + round(7 * count / max(counts))) for count in counts)
