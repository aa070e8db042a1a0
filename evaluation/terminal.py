"""Tables on the terminal, without anything that a model needs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def print_table(lines: Sequence[Sequence[str]], title: str) -> None:
    """Prints `lines`, the first of them the head, the first column left."""
    table = Table(title=title)
    for i, name in enumerate(lines[0]):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for line in lines[1:]:
        table.add_row(*line)
    # A report that is piped into a file is not to be cut to 80 columns.
    console = Console()
    if not console.is_terminal:
        console = Console(width=220)
    console.print(table)
