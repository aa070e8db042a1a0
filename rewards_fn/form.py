"""`format`: is the verdict well formed inside, cites and all? A verdict that passes every check is *valid*."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rewards_fn.completion import Completion, box_of, scores_of, verdict_of
from verdict import GLOBAL_TAG, Task, Verdict, cited
from verdict.schema import TAG

MINIMUM_WORDS = 3
SCORE_RANGE = (0.0, 25.0)


def ids_in_order(verdict: Verdict) -> bool:
    """Region ids are 0..n-1 in list order, as integers."""
    ids = [region.get("id") if isinstance(region, dict) else None for region in verdict.edit_region or ()]
    return all(type(found) is int and found == place for place, found in enumerate(ids))


def boxes_well_formed(verdict: Verdict) -> bool:
    return all(box_of(region) is not None for region in verdict.edit_region or ())


def two_scores_in_range(verdict: Verdict) -> bool:
    return scores_of(verdict, SCORE_RANGE) is not None


def every_region_cited(verdict: Verdict) -> bool:
    return set(cited(verdict.reasoning)) >= set(range(len(verdict.edit_region or ())))


def no_cite_without_region(verdict: Verdict) -> bool:
    return set(cited(verdict.reasoning)) <= set(range(len(verdict.edit_region or ())))


def global_there(verdict: Verdict) -> bool:
    return GLOBAL_TAG in verdict.reasoning


def no_tags(verdict: Verdict) -> bool:
    return TAG.search(verdict.reasoning) is None


def tags_followed_by_words(verdict: Verdict) -> bool:
    """Every cite and `<|global|>` is followed by at least MINIMUM_WORDS words before the next tag."""
    tags = list(TAG.finditer(verdict.reasoning))
    starts = [tag.start() for tag in tags[1:]] + [len(verdict.reasoning)]
    stretches = (verdict.reasoning[tag.end() : start] for tag, start in zip(tags, starts, strict=False))
    return all(len(stretch.split(None, MINIMUM_WORDS)) >= MINIMUM_WORDS for stretch in stretches)


def says_something(verdict: Verdict) -> bool:
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
        (global_there, 0.10),
        (tags_followed_by_words, 0.30),
        (says_something, 0.20),
    ),
    "pq": (
        (two_scores_in_range, 0.30),
        (no_tags, 0.30),
        (says_something, 0.40),
    ),
}


def failed_checks(verdict: Verdict) -> list[str]:
    """The names of the checks that `verdict` fails, in the table's order; empty for a valid verdict."""
    return [check.__name__ for check, _ in CHECKS[verdict.task] if not check(verdict)]


def format(completions: Sequence[Completion], task: Sequence[Task], **kwargs: Any) -> list[float | None]:
    """The weighted share of CHECKS that each completion passes, 0..1: 0 where it is unparsed, exactly 1.0 where valid."""
    rewards: list[float | None] = []
    for completion, kind in zip(completions, task, strict=True):
        verdict = verdict_of(completion, kind)
        if verdict is None:
            rewards.append(0.0)
            continue
        failed = sum(weight for check, weight in CHECKS[kind] if not check(verdict))
        rewards.append(max(0.0, 1.0 - failed))
    return rewards
