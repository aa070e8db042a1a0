"""The held-out rows of one file of responses: rewards and agreement with the references, and where the boxes are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.metrics import METRICS, group_sums, interval, score_rows
from evaluation.responses import Line, Responses, readable_scores, verdict_rates
from rewards_fn import RULES
from rewards_fn.load import Selected, select_rewards
from spatial_edit_reward.parser import parse_or_none


def header_rewards(responses: Responses) -> Selected:
    """The rewards that the header names, for who has no recipe; else the rules, a weight of 1 each."""
    named = responses.header.get("rewards") or {"entries": list(RULES), "weights": [1.0] * len(RULES)}
    return select_rewards(named["entries"], named["weights"], score_range=responses.spec.score_range)


def heldout_figures(responses: Responses, resamples: int, rewards: Selected | None = None) -> dict[str, Any]:
    """{"published": None, "honest": the held-out metrics, with intervals that resample groups, and the localization}.

    `rewards`: None takes the header's.
    """
    rows, pairs = responses.header["rows"], responses.first_lines()
    if not pairs:
        return {"published": None, "honest": {"coverage": 0.0, "samples": len(rows)}}
    rewards = rewards or header_rewards(responses)
    answered, texts = [row for row, _ in pairs], [line["text"] for _, line in pairs]
    scored = score_rows(answered, texts, rewards.rewards, rewards.weights, responses.spec)
    sums = group_sums(answered, scored, [line["truncated"] for _, line in pairs], responses.spec)
    seed = responses.header.get("seed", 0)
    intervals = {name: interval(sums[name], resamples, seed) for name in METRICS}
    complete = [row for row in rows if all(line is not None for line in responses.of(row["key"]))]
    figures: dict[str, Any] = {
        "samples": len(rows),
        "complete_samples": len(complete),
        "coverage": len(complete) / len(rows),
        **{name: values["mean"] for name, values in intervals.items()},
        "intervals": {name: [values["low"], values["high"]] for name, values in intervals.items()},
        "mean_box_iou": intervals["box_iou"]["mean"],
        **empty_regions(pairs),
        **verdict_rates(responses),
    }
    if responses.header.get("expected_score"):
        figures["expected_score_agreement"] = expected_agreement(responses, pairs)
    return {"published": None, "honest": figures}


def empty_regions(pairs: Sequence[tuple[Line, Line]]) -> dict[str, float | None]:
    """Precision and recall of the empty region ("nothing was edited") over `sc` rows whose regions are known.

    An unparsed verdict is no empty region, and misses a true one.
    """
    known = [(row, line) for row, line in pairs if row["task"] == "sc" and row["reference"]["edit_region"] is not None]
    true = [row["reference"]["edit_region"] == [] for row, _ in known]
    verdicts = [parse_or_none(line["text"], "sc") for _, line in known]
    predicted = [verdict is not None and verdict.edit_region == [] for verdict in verdicts]
    both = sum(a and b for a, b in zip(true, predicted, strict=True))
    return {
        "empty_region_precision": both / sum(predicted) if any(predicted) else None,
        "empty_region_recall": both / sum(true) if any(true) else None,
        "said_empty": sum(predicted),
        "truly_empty": sum(true),
    }


def expected_agreement(responses: Responses, pairs: Sequence[tuple[Line, Line]]) -> float:
    """Mean of 1 - |expected - true| / range over both scores, 0 where a verdict is not readable."""
    low, high = responses.spec.score_range
    values = []
    for row, line in pairs:
        scores = readable_scores(line, responses.spec, expected=True)
        true = row["reference"]["score"]
        gaps = [] if scores is None else [abs(a - b) / (high - low) for a, b in zip(scores, true, strict=True)]
        values.append(1 - float(np.mean(gaps)) if gaps else 0.0)
    return float(np.mean(values))
