"""What makes a verdict valid: one table of named checks, the same for the data, the `format` reward and the reports."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from spatial_edit_reward.boxes import finite_number, valid_box
from spatial_edit_reward.schema import DEFAULT_SCORE_RANGE, GLOBAL_TAG, TAG, ScoreRange, Verdict, cited_ids

MIN_WORDS = 3
# Scripts that write no space between words, where every letter counts as a word, as in Unicode's word segmentation (UAX 29)
# for Han and Hiragana: Thai, Lao, Tibetan, Myanmar, Khmer, kana, Han.
UNSPACED = re.compile(
    "[\u0e01-\u0eff\u0f40-\u0fbc\u1000-\u109f\u1780-\u17b3\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)

# task -> the checks that its verdicts have to pass, in the order in which `failed_checks` names them.
CHECKS: dict[str, tuple[str, ...]] = {
    "sc": (
        "ids_in_order",  # the regions' ids are the integers 0..n-1, in list order
        "labels_not_empty",  # every region has a label, a string with more than white space
        "boxes_well_formed",  # every region has a box, see `valid_box`
        "two_scores_in_range",  # two finite numbers within the score range, both ends included
        "every_region_cited",  # `<|bbox_ID|>` is in the reasoning for each region,
        "no_cite_without_region",  # and for nothing else
        "has_global_tag",  # `<|global|>` is in the reasoning
        "tags_followed_by_words",  # at least MIN_WORDS words after each tag, before the next one
        "reasoning_not_empty",  # at least MIN_WORDS words beside the tags
    ),
    # An image alone has no regions to cite.
    "pq": ("two_scores_in_range", "no_tags", "reasoning_not_empty"),
}


def valid_scores(verdict: Verdict, score_range: ScoreRange = DEFAULT_SCORE_RANGE) -> tuple[float, float] | None:
    """The verdict's two scores if they are two finite numbers within `score_range`, else None."""
    if len(verdict.score) != 2:
        return None
    low, high = score_range
    first, second = finite_number(verdict.score[0]), finite_number(verdict.score[1])
    if first is None or second is None or not (low <= first <= high and low <= second <= high):
        return None
    return first, second


def _has_words(text: str) -> bool:
    """At least MIN_WORDS words of any script: runs between spaces that hold a letter or a digit."""
    words = 0
    for run in text.split():
        words += sum(map(str.isalpha, UNSPACED.findall(run))) or any(map(str.isalnum, run))
        if words >= MIN_WORDS:
            return True
    return False


def _tags_followed_by_words(reasoning: str) -> bool:
    tags = list(TAG.finditer(reasoning))
    ends = [tag.start() for tag in tags[1:]] + [len(reasoning)]
    return all(_has_words(reasoning[tag.end() : end]) for tag, end in zip(tags, ends, strict=False))


def _values(regions: Sequence[Any], key: str) -> list[Any]:
    return [region.get(key) if isinstance(region, dict) else None for region in regions]


def failed_checks(verdict: Verdict, score_range: ScoreRange = DEFAULT_SCORE_RANGE) -> list[str]:
    """The names of the checks that `verdict` fails, in the order of CHECKS; empty for a valid verdict.

    >>> from spatial_edit_reward import parse
    >>> verdict = parse('{"reasoning": "No visible artifacts.", "score": [20, 11]}', "pq")
    >>> failed_checks(verdict), failed_checks(verdict, score_range=(0, 10))
    ([], ['two_scores_in_range'])
    """
    regions, reasoning = verdict.edit_region or [], verdict.reasoning
    ids, cited = _values(regions, "id"), set(cited_ids(reasoning))
    passed = {
        "ids_in_order": all(type(value) is int and value == i for i, value in enumerate(ids)),
        "labels_not_empty": all(isinstance(v, str) and v.strip() != "" for v in _values(regions, "label")),
        "boxes_well_formed": all(valid_box(region) is not None for region in regions),
        "two_scores_in_range": valid_scores(verdict, score_range) is not None,
        "every_region_cited": cited >= set(range(len(regions))),
        "no_cite_without_region": cited <= set(range(len(regions))),
        "has_global_tag": GLOBAL_TAG in reasoning,
        "tags_followed_by_words": _tags_followed_by_words(reasoning),
        "no_tags": TAG.search(reasoning) is None,
        "reasoning_not_empty": _has_words(TAG.sub(" ", reasoning)),
    }
    return [name for name in CHECKS[verdict.task] if not passed[name]]


def score_range_per_row(score_range: ScoreRange | Sequence[ScoreRange], rows: int) -> Sequence[ScoreRange]:
    """One range for each of `rows` rows, of a single one or of a dataset's column of them, as TRL hands it to a reward."""
    first = score_range[0] if len(score_range) else None
    return [score_range] * rows if isinstance(first, int | float) else score_range  # type: ignore[list-item, return-value]
