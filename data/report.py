"""`data_report.json`: what came in, was kept, fixed and dropped, with an example of each, and what the kept rows are like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from data.cleaning.box_format import BoxCounts
from data.cleaning.prepare import RowRecord
from data.recipe import SPLITS, DataRecipe
from data.sources import RowSource, Templates
from spatial_edit_reward import TASKS, Spec
from spatial_edit_reward.boxes import BOX_SCALE

TOKEN_BIN = 128
LOW_SCORES = 0.4  # of the declared range, as 10 is of 0..25
COMMON_RANGES = (1, 5, 10, 20, 25, 100)


def counted(values: Iterable[Any]) -> dict[str, int]:
    """How often each value comes, in the order of the values, as JSON has it."""
    return {str(value): count for value, count in sorted(Counter(values).items())}


def make_report(
    recipe: DataRecipe,
    sources: Sequence[RowSource],
    records: Sequence[RowRecord],
    templates: Templates,
    spec: Spec,
    box_counts: Mapping[str, BoxCounts],
) -> dict[str, Any]:
    """What `data_report.json` holds."""
    kept = [row for row in records if row.error is None]
    overlaps = Counter(row.error.detail for row in records if row.error and row.error.kind == "benchmark_overlap")
    return {
        "splits": splits(kept),
        "sources": {
            name: source_rows([row for row in records if row.source == name])
            for name in dict.fromkeys(row.source for row in records)
        },
        "examples": examples(records),
        "prompts": prompts(records, templates, sources),
        "prompt_from": recipe.prompt_from,
        "not_usable_for_sft": sorted({source.name for source in sources if not source.usable_for_sft}),
        "benchmark_overlap": {"exact": overlaps["exact"], "perceptual": overlaps["perceptual"]},
        "images": images(kept, recipe),
        "tokens": None if recipe.tokenizer is None else tokens(kept, spec),
        "scores": {
            task: {index: counted(int(row.score[index]) for row in kept if row.task == task) for index in range(2)}
            for task in TASKS
        },
        "boxes": boxes(kept),
        "joined": joined(records),
        "duplicates": duplicates(kept),
        "notes": [
            *(f"{name}: {counts.problem}" for name, counts in box_counts.items() if counts.problem),
            *low_scores(kept, sources, spec),
        ],
    }


def joined(records: Sequence[RowRecord]) -> dict[str, dict[str, int]]:
    """How many of a source's rows without an answer were joined to a row that has one, by its split, and how many not."""
    result: dict[str, Counter[str]] = {}
    for row in records:
        if row.error and row.image_hashes and row.error.kind in ("joined", "no_verdict"):
            result.setdefault(row.source, Counter())[row.split or "not joined"] += 1
    return {source: dict(counts) for source, counts in result.items()}


def duplicates(kept: Sequence[RowRecord]) -> dict[str, dict[str, int]]:
    """How many rows of a source have the images and the instruction of an earlier row, by the source of that row."""
    first: dict[Hashable, str] = {}
    result: dict[str, Counter[str]] = {}
    for row in kept:
        key = (*row.image_hashes, row.words)
        if key in first:
            result.setdefault(row.source, Counter())[first[key]] += 1
        else:
            first[key] = row.source
    return {source: dict(counts) for source, counts in result.items()}


def low_scores(kept: Sequence[RowRecord], sources: Sequence[RowSource], spec: Spec) -> list[str]:
    """A line for each source whose scores all lie in the lower part of the range that it declares."""
    highest: dict[str, float] = {}
    for row in kept:
        highest[row.source] = max(highest.get(row.source, spec.score_range[0]), *row.score)
    lines = []
    low, high = spec.score_range
    for name, (declared_low, declared_high) in {source.name: source.score_range for source in sources}.items():
        share = (highest.get(name, high) - low) / (high - low)
        if share <= LOW_SCORES:
            top = declared_low + share * (declared_high - declared_low)
            lines.append(
                f"{name}: no score is above {top:g} of the declared {declared_low:g}..{declared_high:g}: write `score_range: "
                f"[{declared_low:g}, {likely_range(top):g}]` for the source if that is theirs"
            )
    return lines


def likely_range(highest: float) -> float:
    """The upper end of the usual ranges that scores up to `highest` are likely of."""
    return next((bound for bound in COMMON_RANGES if bound >= highest - 1e-6), highest)


def splits(kept: Sequence[RowRecord]) -> dict[str, dict[str, int]]:
    """Rows of each split, by task, and how many `sc` rows have a true region."""
    result: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        rows = [row for row in kept if row.split == split]
        if rows:
            tasks = Counter(row.task for row in rows)
            regions = sum(bool(row.boxes) for row in rows)
            result[split] = {"rows": len(rows), "sc": tasks["sc"], "pq": tasks["pq"], "sc_with_region": regions}
    return result


def source_rows(records: Sequence[RowRecord]) -> dict[str, Any]:
    """Rows of a source that came in, were kept, fixed (by kind) and dropped (by kind)."""
    kept = [row for row in records if row.error is None]
    return {
        "in": len(records),
        "kept": len(kept),
        "fixed_rows": sum(bool(row.fixed) for row in kept),
        "fixed": counted(kind for row in kept for kind in row.fixed),
        "dropped": counted(row.error.kind for row in records if row.error),
    }


def examples(records: Sequence[RowRecord]) -> dict[str, dict[str, str]]:
    """The first row of each kind that was dropped or fixed: its id, its location, and what was wrong with it."""
    result: dict[str, dict[str, str]] = {}
    for row in records:
        for kind, detail in {row.error.kind: row.error.detail}.items() if row.error else row.fixed.items():
            result.setdefault(kind, {"id": row.id, "location": row.location, "detail": detail})
    return result


def prompts(
    records: Sequence[RowRecord], templates: Templates, sources: Sequence[RowSource]
) -> dict[str, dict[str, Any]]:
    """For each source and task with prompts: how many its template explains, and the template as the spec would have it."""
    counts: Counter[tuple[str, str, bool]] = Counter()
    for row in records:
        if row.explained is not None:
            counts[row.source, row.task, row.explained] += 1
        elif row.error and row.error.kind == "no_instruction":
            counts[row.source, row.task, False] += 1
    result: dict[str, dict[str, Any]] = {}
    for source in sources:
        for task in TASKS:
            explained, not_explained = (counts[source.name, task, value] for value in (True, False))
            if explained + not_explained:
                template = templates.get((source.name, task))
                result.setdefault(source.name, {})[task] = {
                    "explained": explained,
                    "not_explained": not_explained,
                    "template": template and template.spec_prompt(source.score_range),
                    "score_range_located": bool(template and template.names_range(source.score_range)),
                }
    return result


def images(kept: Sequence[RowRecord], recipe: DataRecipe) -> dict[str, Any]:
    """How many images the rows have and of which sizes in pixels, and how they are stored."""
    lossless = recipe.image_format == "png"
    return {
        "count": sum(len(row.sizes) for row in kept),
        "kept_their_bytes": sum(row.original_images for row in kept),
        "resized_stored_as": "png (lossless)" if lossless else "jpeg (lossy: pq judges artifacts)",
        "by_size": counted(f"{width}x{height}" for row in kept for width, height in row.sizes),
    }


def tokens(kept: Sequence[RowRecord], spec: Spec) -> dict[str, Any]:
    """Tokens of prompt, images and completion in bins of TOKEN_BIN, and how many completions are over the spec's limit."""
    return {
        "of_rows": dict(sorted(Counter(row.tokens // TOKEN_BIN * TOKEN_BIN for row in kept).items())),
        "longest_completion": max((row.completion_tokens for row in kept), default=0),
        "completions_over_max_new_tokens": sum(row.completion_tokens > spec.max_new_tokens for row in kept),
    }


def boxes(kept: Sequence[RowRecord]) -> dict[str, Any]:
    """Boxes in an `sc` row, rows whose boxes are unknown, and the boxes' areas in tenths of the image."""
    areas = [(x2 - x1) * (y2 - y1) / BOX_SCALE**2 for row in kept for x1, y1, x2, y2 in row.boxes or ()]
    return {
        "per_sc_row": counted(len(row.boxes) for row in kept if row.boxes is not None),
        "unknown_rows": sum(row.task == "sc" and row.boxes is None for row in kept),
        "area_percent": counted(int(100 * area) // 10 * 10 for area in areas),
    }
