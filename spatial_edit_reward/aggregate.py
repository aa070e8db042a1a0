"""One number out of two verdicts: R in 0..1, for ranking candidates and as a reward for online RL."""

from __future__ import annotations

from collections.abc import Sequence

from spatial_edit_reward.spec import Spec


def aggregate(sc: Sequence[float], pq: Sequence[float], spec: Spec) -> float:
    """R = (SC / high)^0.8 * (PQ / high)^0.2, SC = 0.6 success + 0.4 over-editing, PQ = half and half (arXiv 2602.07458).

    `sc`, `pq`: the two scores of each verdict, within the spec's range; the exponents and weights are the spec's.
    Both scores are taken relative to the range, so that R is 0..1 for a range that does not start at 0.
    """
    low, high = spec.score_range
    how = spec.aggregation

    def share(scores: Sequence[float], weights: tuple[float, float]) -> float:
        mean = sum(w * s for w, s in zip(weights, scores, strict=True)) / sum(weights)
        return (mean - low) / (high - low)

    return float(share(sc, how.sc_scores) ** how.sc * share(pq, how.pq_scores) ** how.pq)
