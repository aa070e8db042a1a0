"""Which rows are hard, but not hopeless: their rewards over several samples, the selection, and its histogram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rewards_fn.load import Reward, apply_rewards, weighted_mean

BINS = 20


def sample_rewards(
    rows: Sequence[dict[str, Any]],
    samples: Sequence[Sequence[str]],
    rewards: Sequence[Reward],
    weights: Sequence[float],
    images: Sequence[Any] | None = None,
) -> np.ndarray:
    """(rows, samples) weighted mean rewards in 0..1; NaN where no reward applies to a row.

    `images`: of each sample's row, for rewards that need them; a column that is decoded as it is read.
    """
    count = len(samples[0])
    columns: dict[str, Sequence[Any]] = {
        name: [row.get(name) for row in rows for _ in range(count)]
        for name in ("id", "task", "instruction", "reference")
    }
    if images is not None:
        columns["images"] = images
    values = apply_rewards(rewards, [text for texts in samples for text in texts], columns)
    means = [weighted_mean(row, weights) for row in zip(*values, strict=True)]
    return np.array([np.nan if mean is None else mean for mean in means]).reshape(len(rows), count)


def hard_rows(
    values: np.ndarray, min_mean_reward: float, max_mean_reward: float, min_reward_std: float, max_rows: int
) -> np.ndarray:
    """The indices of the rows that are kept, in row order; of more than `max_rows` those with the lowest means.

    `values`: (rows, samples) rewards in 0..1; a row without a reward (NaN) is not kept.

    >>> hard_rows(np.array([[0.0, 0.1], [0.2, 0.6], [0.5, 0.5], [0.9, 1.0]]), 0.2, 0.7, 0.05, 10).tolist()
    [1]
    """
    mean, std = values.mean(axis=1), values.std(axis=1)
    hard = np.flatnonzero((mean >= min_mean_reward) & (mean <= max_mean_reward) & (std >= min_reward_std))
    return np.sort(hard[np.argsort(mean[hard], kind="stable")][:max_rows])


def make_report(values: np.ndarray, kept: np.ndarray) -> dict[str, Any]:
    """What `mine_report.json` holds: counts, mean rewards, and the histogram of the rows' mean rewards, all and kept.

    A mean over no row that a reward applies to is None.
    """
    mean, edges = values.mean(axis=1), np.linspace(0, 1, BINS + 1)
    return {
        "candidates": len(values),
        "kept": len(kept),
        "mean_reward": {
            "all": None if np.isnan(mean).all() else float(np.nanmean(mean)),
            "kept": float(mean[kept].mean()) if len(kept) else None,
        },
        "histogram": {
            "edges": [round(float(edge), 3) for edge in edges],
            "all": np.histogram(mean, edges)[0].tolist(),
            "kept": np.histogram(mean[kept], edges)[0].tolist(),
        },
    }


def print_histogram(report: dict[str, Any]) -> None:
    """The report's histogram as a table with bars."""
    from rich.console import Console
    from rich.table import Table

    histogram = report["histogram"]
    table = Table("mean reward", title=f"{report['candidates']} candidates, {report['kept']} kept")
    table.add_column("rows", justify="right")
    table.add_column("kept", justify="right")
    table.add_column("", no_wrap=True)
    edges, largest = histogram["edges"], max(max(histogram["all"]), 1)
    for low, high, count, kept in zip(edges, edges[1:], histogram["all"], histogram["kept"], strict=False):
        width, full = round(40 * count / largest), round(40 * kept / largest)
        bar = "\N{FULL BLOCK}" * full + "\N{LIGHT SHADE}" * (width - full)
        table.add_row(f"{low:.2f} - {high:.2f}", str(count), str(kept), bar)
    Console().print(table)
