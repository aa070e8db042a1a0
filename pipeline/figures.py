"""How a figure and its interval are written in tables: in the terminal, the report and the model card."""

from __future__ import annotations

MISSING = "\N{EN DASH}"


def format_figure(mean: float | None, low: float | None = None, high: float | None = None, sign: str = "") -> str:
    """`mean` [`low`, `high`] to three digits; without the interval where there is none, MISSING without a mean.

    `sign` "+" writes the sign of positive figures too, as for differences.

    >>> format_figure(0.5, 0.25, 0.625), format_figure(0.5), format_figure(0.5, sign="+")
    ('0.500 [0.250, 0.625]', '0.500', '+0.500')
    """
    if mean is None:
        return MISSING
    if low is None or high is None:
        return f"{mean:{sign}.3f}"
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"
