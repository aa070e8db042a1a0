"""`data_report.json`: what came in, was kept, fixed and dropped, and what the kept rows look like."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data.build import Built
from data.cleaning.prepare import Outcome
from data.recipe import SPLITS, DataRecipe, Source
from data.sources import Templates
from data.templates import NEEDED
from spatial_edit_reward import TASKS, Spec
from spatial_edit_reward.errors import UserError

TOKEN_BIN = 128
EXPLAINED = {True: "explained", False: "not_explained"}


def counted(values: Iterable[Any]) -> dict[str, int]:
    """How often each value comes, in the order of the values, as JSON has it."""
    return {str(value): count for value, count in sorted(Counter(values).items())}


def by_split(built: Built) -> dict[str, dict[str, int]]:
    """Rows of each split, by task, and how many `sc` rows have a true region."""
    result: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        rows = [row for row, its in zip(built.outcomes, built.splits, strict=True) if its == split]
        if rows:
            tasks = Counter(row.task for row in rows)
            regions = sum(bool(row.boxes) for row in rows)
            result[split] = {"rows": len(rows), "sc": tasks["sc"], "pq": tasks["pq"], "sc_with_region": regions}
    return result


def by_source(rows: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Rows in, kept, fixed (by kind) and dropped (by kind) of each source."""
    members: dict[str, list[Outcome]] = defaultdict(list)
    for row in rows:
        members[row.source].append(row)
    return {
        name: {
            "in": len(own),
            "kept": sum(row.fault is None for row in own),
            "fixed_rows": sum(row.fault is None and bool(row.fixed) for row in own),
            "fixed": counted(kind for row in own if row.fault is None for kind in row.fixed),
            "dropped": counted(row.fault.kind for row in own if row.fault),
        }
        for name, own in members.items()
    }


def examples(rows: Sequence[Outcome]) -> dict[str, dict[str, str]]:
    """The first row of each kind that was dropped or fixed: its id, where it stands, and what was found."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        if row.fault:
            found.setdefault(row.fault.kind, {"id": row.id, "place": row.place, "said": row.fault.detail})
        else:
            for kind in row.fixed:
                found.setdefault(kind, {"id": row.id, "place": row.place, "said": "fixed"})
    return found


def prompts(rows: Sequence[Outcome], templates: Templates, sources: Sequence[Source]) -> dict[str, dict[str, Any]]:
    """For each source and task with prompts: how many its template explains, and the template as the spec would have it."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row.explained is not None:
            counts[row.source, row.task][EXPLAINED[row.explained]] += 1
        elif row.fault and row.fault.kind == "no_instruction":
            counts[row.source, row.task]["not_explained"] += 1
    ranges = {source.name: source.score_range for source in sources}
    result: dict[str, dict[str, Any]] = defaultdict(dict)
    for (source, task), count in counts.items():
        template = templates.get((source, task))  # type: ignore[arg-type]
        result[source][task] = {
            **{name: count[name] for name in EXPLAINED.values()},
            "template": template and template.spec_prompt(ranges[source]),
            "score_range_located": bool(template and template.names_range(ranges[source])),
        }
    return dict(result)


def check_prompts(report: Mapping[str, Any]) -> None:
    """Raises UserError where the template of `prompt_from` explains fewer of its source's rows than it must."""
    source = report["prompt_from"]
    for task, found in report["prompts"].get(source, {}).items():
        rows = found["explained"] + found["not_explained"]
        if found["explained"] < NEEDED * rows:
            raise UserError(
                f"prompt_from: the {task} template of {source!r} explains {found['explained']} of {rows} rows, fewer than "
                f"{NEEDED:.0%}"
            )


def make_report(
    recipe: DataRecipe, sources: Sequence[Source], built: Built, templates: Templates, spec: Spec
) -> dict[str, Any]:
    """What `data_report.json` holds."""
    kept = [row for row in built.outcomes if row.fault is None]
    images = sum(len(row.sizes) for row in kept)
    boxes = [box for row in kept for box in row.boxes or ()]
    overlaps = Counter(
        row.fault.detail for row in built.outcomes if row.fault and row.fault.kind == "benchmark_overlap"
    )
    return {
        "splits": by_split(built),
        "sources": by_source(built.outcomes),
        "examples": examples(built.outcomes),
        "prompts": prompts(built.outcomes, templates, sources),
        "prompt_from": recipe.prompt_from,
        "not_usable_for_sft": sorted({s.name for s in sources if s.layout == "editreward"}),
        "benchmark_overlap": {"exact": overlaps["exact"], "perceptual": overlaps["perceptual"]},
        "images": {
            "count": images,
            "kept_their_bytes": sum(row.kept_bytes for row in kept),
            "resized_stored_as": "png (lossless)" if recipe.store == "png" else "jpeg (lossy: pq judges artifacts)",
            "by_size": counted(f"{width}x{height}" for row in kept for width, height in row.sizes),
        },
        "tokens": None if recipe.tokenizer is None else tokens(kept, spec),
        "scores": {
            task: {place: counted(int(row.score[place]) for row in kept if row.task == task) for place in range(2)}
            for task in TASKS
        },
        "boxes": {
            "per_sc_row": counted(len(row.boxes) for row in kept if row.boxes is not None),
            "unknown_rows": sum(row.task == "sc" and row.boxes is None for row in kept),
            "area_percent": counted(int((x2 - x1) * (y2 - y1) / 1e4) // 10 * 10 for x1, y1, x2, y2 in boxes),
        },
    }


def tokens(rows: Sequence[Outcome], spec: Spec) -> dict[str, Any]:
    """Tokens of prompt, images and completion in bins of TOKEN_BIN, and how many completions are over the spec's limit."""
    return {
        "of_rows": dict(sorted(Counter(row.tokens // TOKEN_BIN * TOKEN_BIN for row in rows).items())),
        "longest_completion": max((row.said for row in rows), default=0),
        "completions_over_max_new_tokens": sum(row.said > spec.max_new_tokens for row in rows),
    }
