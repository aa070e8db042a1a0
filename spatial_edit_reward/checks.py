"""What makes a verdict valid: the table of checks, with the weights that the `format` reward gives them."""

from __future__ import annotations

from collections.abc import Callable

from spatial_edit_reward.boxes import finite_number, valid_box
from spatial_edit_reward.schema import GLOBAL_TAG, TAG, Verdict, cited_ids

MINIMUM_WORDS = 3
SCORE_RANGE = (0.0, 25.0)


def valid_scores(verdict: Verdict, score_range: tuple[float, float]) -> tuple[float, float] | None:
    """The verdict's two scores if they are two finite numbers within `score_range`, else None."""
    if len(verdict.score) != 2:
        return None
    low, high = score_range
    first, second = finite_number(verdict.score[0]), finite_number(verdict.score[1])
    if first is None or second is None or not (low <= first <= high and low <= second <= high):
        return None
    return first, second


def ids_in_order(verdict: Verdict) -> bool:
    """Region ids are 0..n-1 in list order, as integers."""
    ids = [region.get("id") if isinstance(region, dict) else None for region in verdict.edit_region or ()]
    return all(type(found) is int and found == place for place, found in enumerate(ids))


def boxes_well_formed(verdict: Verdict) -> bool:
    return all(valid_box(region) is not None for region in verdict.edit_region or ())


def two_scores_in_range(verdict: Verdict) -> bool:
    return valid_scores(verdict, SCORE_RANGE) is not None


def every_region_cited(verdict: Verdict) -> bool:
    return set(cited_ids(verdict.reasoning)) >= set(range(len(verdict.edit_region or ())))


def no_cite_without_region(verdict: Verdict) -> bool:
    return set(cited_ids(verdict.reasoning)) <= set(range(len(verdict.edit_region or ())))


def has_global_tag(verdict: Verdict) -> bool:
    return GLOBAL_TAG in verdict.reasoning


def no_tags(verdict: Verdict) -> bool:
    return TAG.search(verdict.reasoning) is None


def tags_followed_by_words(verdict: Verdict) -> bool:
    """Every cite and `<|global|>` is followed by at least MINIMUM_WORDS words before the next tag."""
    tags = list(TAG.finditer(verdict.reasoning))
    starts = [tag.start() for tag in tags[1:]] + [len(verdict.reasoning)]
    stretches = (verdict.reasoning[tag.end() : start] for tag, start in zip(tags, starts, strict=False))
    return all(len(stretch.split(None, MINIMUM_WORDS)) >= MINIMUM_WORDS for stretch in stretches)


def reasoning_not_empty(verdict: Verdict) -> bool:
    """The reasoning holds at least MINIMUM_WORDS words beside its tags."""
    return len(TAG.sub(" ", verdict.reasoning).split(None, MINIMUM_WORDS)) >= MINIMUM_WORDS


# task -> (check, weight); the weights of a task are shares of 1. Bad boxes and scores cost the other rewards too, so most of
# the weight is on the reasoning, which nothing else looks at; `python -m rewards_fn audit` shows whether it is enough.
CHECKS: dict[str, tuple[tuple[Callable[[Verdict], bool], float], ...]] = {
    "sc": (
        (ids_in_order, 0.05),
        (boxes_well_formed, 0.10),
        (two_scores_in_range, 0.10),
        (every_region_cited, 0.10),
        (no_cite_without_region, 0.05),
        (has_global_tag, 0.10),
        (tags_followed_by_words, 0.30),
        (reasoning_not_empty, 0.20),
    ),
    "pq": (
        (two_scores_in_range, 0.30),
        (no_tags, 0.30),
        (reasoning_not_empty, 0.40),
    ),
}


def failed_checks(verdict: Verdict) -> list[str]:
    """The names of the checks that `verdict` fails, in the table's order; empty for a valid verdict."""
    return [check.__name__ for check, _ in CHECKS[verdict.task] if not check(verdict)]
