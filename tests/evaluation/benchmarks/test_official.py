"""What the official evaluations have in common, on cases computed by hand."""

import math

import pytest

from evaluation.benchmarks.official import UNREADABLE, combined, falling, lenient_scores


def test_falling_is_stable():
    assert falling([1, 2, 2, 3]) == [3, 1, 2, 0]


def test_an_unreadable_completion_counts_as_the_middle_of_the_range():
    assert UNREADABLE == (12.5, 12.5) and combined(UNREADABLE, UNREADABLE, "min") == 5


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ('{"reasoning": "x", "score": [20, 10]}', (20, 10)),
        ('Sure!\n```json\n{"score": [20, 10.5, 3]}\n```', (20, 10.5)),
        ('<think>{}</think>{"score": [1, 2]}', (1, 2)),
        ('{"reasoning": "a "quoted" word", "score": [7, 8]}', (7, 8)),
        ('{"score": 9}', (9, 9)),
        ('{"score": []}', UNREADABLE),
        ('{"reasoning": "x", "score": [20, 1', UNREADABLE),
        ("no", UNREADABLE),
        ('{"score": ["a", 1]}', UNREADABLE),
        ('{"score": [NaN, 1]}', UNREADABLE),
        ('{"score": [-3, 1]}', UNREADABLE),
        ("[1]}{", UNREADABLE),
    ],
)
def test_what_is_read_out_of_a_completion(text, scores):
    assert lenient_scores(text) == scores


@pytest.mark.parametrize(
    ("text", "score_range", "scores"),
    [
        ('{"score": [10, 5]}', (0.0, 10.0), (25.0, 12.5)),
        ('{"score": [-1, 0]}', (-1.0, 1.0), (0.0, 12.5)),
        ('{"score": [0, 5]}', (1.0, 5.0), UNREADABLE),
        ("no", (0.0, 10.0), UNREADABLE),
        ('{"score": [0.1, 24.7]}', (0.0, 25.0), (0.1, 24.7)),
    ],
)
def test_scores_of_another_range_are_brought_to_the_official_one(text, score_range, scores):
    assert lenient_scores(text, score_range) == scores


def test_overall_scores_in_the_official_order_of_operations():
    sc, pq = (20.0, 10.0), (15.0, 25.0)
    assert combined(sc, pq, "weighted") == (0.6 * 8.0 + 0.4 * 4.0) ** 0.8 * (0.5 * 6.0 + 0.5 * 10.0) ** (1 - 0.8)
    assert combined(sc, pq, "min") == math.sqrt(4.0 * 6.0)
    assert combined(sc, pq, "mean") == math.sqrt(6.0 * 8.0)
