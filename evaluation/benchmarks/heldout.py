"""The held-out rows of one run: rewards and agreement with the references, and where the boxes are, without a model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import DegenerateDataWarning

from evaluation.benchmarks.scores import Run, readable_scores, verdict_rates
from evaluation.metrics import METRICS, GroupSums, group_sums, interval, score_rows
from rewards_fn.load import Reward, load_rewards
from spatial_edit_reward.parser import parse_or_none

Row = Mapping[str, Any]


def given(run: Run) -> list[tuple[Row, Row]]:
    """(row, its first verdict) of every row that has one."""
    lines = [(row, run.lines(row["key"])[0]) for row in run.head["rows"]]
    return [(row, line) for row, line in lines if line is not None]


def rewards_of(run: Run) -> tuple[list[Reward], list[float]]:
    """The rewards and weights that the run was made with."""
    return load_rewards(run.head["rewards"]["entries"], run.spec.score_range), run.head["rewards"]["weights"]


def empty_regions(pairs: Sequence[tuple[Row, Row]]) -> dict[str, float | None]:
    """Precision and recall of the empty region ("nothing was edited") over `sc` rows whose regions are known.

    An unparsed verdict says nothing: it is no empty region, and misses a true one.
    """
    both = said = true = 0
    for row, line in pairs:
        region = row["reference"]["edit_region"]
        if row["task"] != "sc" or region is None:
            continue
        verdict = parse_or_none(line["text"], "sc")
        empty = verdict is not None and verdict.edit_region == []
        said, true, both = said + empty, true + (region == []), both + (empty and region == [])
    return {
        "empty_region_precision": both / said if said else None,
        "empty_region_recall": both / true if true else None,
        "said_empty": said,
        "truly_empty": true,
    }


def _sums(run: Run, pairs: Sequence[tuple[Row, Row]]) -> dict[str, GroupSums]:
    rewards, weights = rewards_of(run)
    rows, texts = [row for row, _ in pairs], [line["text"] for _, line in pairs]
    scored = score_rows(rows, texts, rewards, weights, run.spec)
    return group_sums(rows, scored, [line["truncated"] for _, line in pairs], run.spec)


def figures(run: Run, resamples: int) -> dict[str, Any]:
    """{"published": None, "honest": the held-out metrics, with intervals that resample groups, and the localisation}."""
    pairs = given(run)
    if not pairs:
        return {"published": None, "honest": {"coverage": 0.0, "samples": len(run.head["rows"])}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)
        found = {
            name: interval(sums, resamples, run.head["seed"])
            for name, sums in _sums(run, pairs).items()
            if name in METRICS
        }
    count = len(run.head["rows"])
    whole = [row for row in run.head["rows"] if all(line is not None for line in run.lines(row["key"]))]
    honest: dict[str, Any] = {
        "samples": count,
        "complete_samples": len(whole),
        "coverage": len(whole) / count,
        **{name: values["mean"] for name, values in found.items()},
        "intervals": {name: [values["low"], values["high"]] for name, values in found.items()},
        "mean_box_iou": found["box_iou"]["mean"],
        **empty_regions(pairs),
        **verdict_rates(run),
    }
    if run.head["expected_score"]:
        honest["expected_score_agreement"] = expected_agreement(run, pairs)
    return {"published": None, "honest": honest}


def expected_agreement(run: Run, pairs: Sequence[tuple[Row, Row]]) -> float:
    """Mean of 1 - |expected - true| / range over both scores, 0 where a verdict is not readable."""
    low, high = run.spec.score_range
    values = []
    for row, line in pairs:
        scores = readable_scores(line, run.spec, expected=True)
        true = row["reference"]["score"]
        gaps = [] if scores is None else [abs(a - b) / (high - low) for a, b in zip(scores, true, strict=True)]
        values.append(1 - float(np.mean(gaps)) if gaps else 0.0)
    return float(np.mean(values))
