"""Wrong rankings, as pictures with the verdicts' boxes drawn: what the report's page shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from evaluation.benchmarks.plan import Plan
from evaluation.benchmarks.scores import Aggregation, Run, scored_samples
from evaluation.benchmarks.strict import sample_parts
from spatial_edit_reward import ParseFailure, repair
from spatial_edit_reward.draw import PREDICTED_COLOR, Outline, data_uri, with_boxes
from spatial_edit_reward.pages import drawable_boxes


def wrong_rankings(run: Run, plan: Plan, how: Aggregation, count: int) -> list[dict[str, Any]]:
    """The `count` samples with the smallest share of right pairs: pictures as data URIs, best candidate first, with scores."""
    found = []
    for row, sample in zip(run.head["rows"], scored_samples(run, how, False), strict=True):
        right, pairs = sample_parts(sample.ranks, sample.scores).get("pair_accuracy", (0.0, 0.0))
        if right < pairs and sample.complete:
            found.append((right / pairs, row, sample))
    found.sort(key=lambda one: one[0])
    cards = []
    for share, row, sample in found[:count]:
        order = sorted(range(sample.size), key=lambda place: sample.ranks[place])
        shown = [_candidate(run, plan, row["candidates"][place], sample.scores[place]) for place in order]
        question = plan.question((row["candidates"][0]["sc"], 0))
        sources = question.images[:-1] if question else []
        cards.append(
            {
                "title": f"{row['id']} · {row['category']} · {row['dimension']}",
                "instruction": plan.asked[row["candidates"][0]["sc"]][1],
                "right": f"{share:.0%} of pairs right",
                "sources": [data_uri(with_boxes(picture, ())) for picture in sources],
                "candidates": [one for one in shown if one is not None],
            }
        )
    return cards


def _candidate(run: Run, plan: Plan, candidate: Mapping[str, Any], score: float | None) -> dict[str, Any] | None:
    question = plan.question((candidate["sc"], 0))
    line = run.lines(candidate["sc"])[0]
    if question is None or line is None:
        return None
    picture: Image.Image = question.images[-1]
    try:
        regions = repair(line["text"], "sc").verdict.edit_region
    except ParseFailure:
        regions = None
    outlines = [Outline(PREDICTED_COLOR, box, str(place)) for place, box in drawable_boxes(regions)]
    return {
        "picture": data_uri(with_boxes(picture, outlines)),
        "rank": candidate["rank"] + 1,
        "score": "unparsed" if score is None else f"{score:.3f}",
        "text": line["text"],
    }
