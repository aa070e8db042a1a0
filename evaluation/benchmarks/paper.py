"""Published figures, for rows beside our own: overall accuracy as arXiv 2602.07458 and secondary sources give it."""

from __future__ import annotations

# model -> benchmark -> overall accuracy by the benchmark's published rule; MER-Bench: exact match over its three splits.
OVERALL: dict[str, dict[str, float]] = {
    name: dict(zip(("editreward-bench", "mmrb2", "merbench"), values, strict=True))
    for name, values in {
        "GPT-4.1": (0.705, 0.535, 0.358),
        "GPT-5": (0.755, 0.619, 0.423),
        "Gemini-2.5-Pro": (0.722, 0.534, 0.462),
        "Gemini-3.0-Flash": (0.769, 0.621, 0.508),
        "EditScore-8B": (0.690, 0.570, 0.350),
        "EditReward": (0.792, 0.657, 0.448),
        "SpatialReward-8B": (0.803, 0.661, 0.483),
    }.items()
}
# MER-Bench, samples of four candidates.
FOUR_CANDIDATES = {"SpatialReward-8B": 0.215, "Gemini-3.0-Flash": 0.195}
