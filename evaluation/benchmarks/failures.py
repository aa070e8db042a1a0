"""Wrong rankings, as images with the verdicts' boxes drawn: what the report's page shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.benchmarks.figures import scored_samples
from evaluation.benchmarks.strict import levels_of, sample_parts
from evaluation.options import Aggregation
from evaluation.requests import RequestPlan
from evaluation.responses import Responses
from spatial_edit_reward import ParseFailure, repair
from spatial_edit_reward.draw import PREDICTED_COLOR, Outline, data_uri, draw_boxes
from spatial_edit_reward.pages import drawable_boxes


def wrong_rankings(
    responses: Responses, plan: RequestPlan, aggregation: Aggregation, count: int = 24
) -> list[dict[str, Any]]:
    """The `count` samples with the smallest share of right pairs: images as data URIs, best candidate first, with scores."""
    wrong = []
    for row, sample in zip(responses.header["rows"], scored_samples(responses, aggregation), strict=True):
        right, pairs = sample_parts(sample.ranks, levels_of(sample.scores)).get("pair_accuracy", (0.0, 0.0))
        if right < pairs and sample.complete:
            wrong.append((right / pairs, row, sample))
    wrong.sort(key=lambda one: one[0])
    cards = []
    for share, row, sample in wrong[:count]:
        order = sorted(range(sample.size), key=lambda i: sample.ranks[i])
        candidates = [_candidate(responses, plan, row["candidates"][i], sample.scores[i]) for i in order]
        key = row["candidates"][0]["sc"]
        request = plan.request((key, 0))
        cards.append(
            {
                "title": f"{row['id']}, {row['category']}, {row['dimension']}",
                "instruction": plan.prompts[key][1],
                "right": f"{share:.0%} of pairs right",
                "sources": [data_uri(draw_boxes(image, ())) for image in request.images[:-1]] if request else [],
                "candidates": [candidate for candidate in candidates if candidate is not None],
            }
        )
    return cards


def _candidate(
    responses: Responses, plan: RequestPlan, candidate: Mapping[str, Any], score: float | None
) -> dict[str, Any] | None:
    request, line = plan.request((candidate["sc"], 0)), responses.of(candidate["sc"])[0]
    if request is None or line is None:
        return None
    try:
        regions = repair(line["text"], "sc").verdict.edit_region
    except ParseFailure:
        regions = None
    outlines = [Outline(PREDICTED_COLOR, box, str(i)) for i, box in drawable_boxes(regions)]
    return {
        "image": data_uri(draw_boxes(request.images[-1], outlines)),
        "rank": candidate["rank"] + 1,
        "score": "unparsed" if score is None else f"{score:.3f}",
        "text": line["text"],
    }
