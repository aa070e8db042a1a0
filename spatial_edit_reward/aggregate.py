"""One number out of two verdicts: R in 0..1, for ranking candidates and as a reward for online RL."""

from __future__ import annotations

from collections.abc import Sequence

from spatial_edit_reward.spec import Spec


def aggregate(sc: Sequence[float], pq: Sequence[float], spec: Spec) -> float:
    """R = SC^0.8 * PQ^0.2, SC = 0.6 success + 0.4 over-editing, PQ half naturalness and half artifacts (arXiv 2602.07458).

    The paper divides SC and PQ by the highest score. Here each is its share of the spec's range, (score - low) / (high - low),
    so that R is 0..1 for a range that does not start at 0 too. The exponents and weights are the spec's.

    Args:
        sc, pq: the two scores of each verdict, in points, within the spec's range.

    >>> from spatial_edit_reward import Spec
    >>> spec = Spec(pixels={"min": 65_536, "max": 1_048_576, "multiple": 32}, max_new_tokens=1024)
    >>> round(aggregate(sc=[20, 25], pq=[15, 20], spec=spec), 3)
    0.841
    """
    low, high = spec.score_range
    exponents = spec.aggregation

    def share(scores: Sequence[float], weights: tuple[float, float]) -> float:
        mean = sum(w * s for w, s in zip(weights, scores, strict=True)) / sum(weights)
        return (mean - low) / (high - low)

    return float(share(sc, exponents.sc_scores) ** exponents.sc * share(pq, exponents.pq_scores) ** exponents.pq)
