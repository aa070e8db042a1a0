"""Strict figures on cases computed by hand; and for all: no order of candidates helps, a constant scorer gets chance."""

import math
from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.benchmarks.strict import (
    FIGURES,
    ScoredSample,
    chance,
    means,
    pairwise_by_dimension,
    sample_parts,
    strict_figures,
)

LEVELS = st.sampled_from([None, 0.0, 0.5, 1.0])


@st.composite
def samples(draw):
    size = draw(st.integers(2, 4))
    ranks = tuple(draw(st.lists(st.integers(0, size - 1), min_size=size, max_size=size)))
    return ranks, tuple(draw(st.lists(LEVELS, min_size=size, max_size=size)))


def test_three_candidates_with_a_tie_by_hand():
    figures = {name: a / b for name, (a, b) in sample_parts((0, 1, 2), (0.9, 0.5, 0.5)).items()}
    assert figures["pair_accuracy"] == 2 / 3 and figures["pair_accuracy_half"] == 2.5 / 3
    assert figures["exact_order"] == 0 and figures["top1_accuracy"] == 1 and figures["tie_rate"] == 1
    # tau-b: 2 pairs in order, none against, one tied in the scores: 2 / sqrt(3 * 2)
    assert math.isclose(figures["kendall_tau_b"], 2 / math.sqrt(6))
    # NDCG: the two tied share the discounts of positions 2 and 3; gains 3, 2, 1
    discounts = [1 / math.log2(i + 2) for i in range(3)]
    ideal = 3 * discounts[0] + 2 * discounts[1] + discounts[2]
    assert math.isclose(figures["ndcg"], (3 * discounts[0] + 1.5 * (discounts[1] + discounts[2])) / ideal)


def test_a_missing_score_is_wrong_in_every_pair_it_is_in():
    figures = {name: a / b for name, (a, b) in sample_parts((0, 1, 2), (0.9, None, 0.5)).items()}
    assert figures["pair_accuracy"] == figures["pair_accuracy_half"] == 1 / 3
    assert figures["top1_accuracy"] == figures["exact_order"] == figures["kendall_tau_b"] == figures["ndcg"] == 0


def test_pairs_that_people_called_a_tie_are_not_asked_for():
    assert sample_parts((0, 0), (0.9, 0.1)) == {"tie_rate": (0.0, 1.0)}
    assert sample_parts((0, 0, 1), (0.9, 0.1, 0.0))["pair_accuracy"] == (2.0, 2.0)
    assert "top1_accuracy" not in sample_parts((0, 0, 1), (0.9, 0.1, 0.0))
    assert (
        strict_figures([ScoredSample("a", (0, 0), (1.0, 0.0)), ScoredSample("b", (0, 1), (1.0, 0.0))], 20, 0)[
            "undecided_pairs"
        ]
        == 1
    )


@settings(deadline=None)  # the first call of scipy on a busy machine
@given(samples())
def test_no_order_of_the_candidates_changes_a_figure(sample):
    ranks, scores = sample
    figures = sample_parts(ranks, scores)
    for order in permutations(range(len(ranks))):
        shuffled = sample_parts(tuple(ranks[i] for i in order), tuple(scores[i] for i in order))
        assert set(shuffled) == set(figures)
        for name, (value, weight) in figures.items():
            assert math.isclose(shuffled[name][0], value, abs_tol=1e-12) and shuffled[name][1] == weight


@settings(deadline=None)  # the first call of scipy on a busy machine
@given(st.lists(samples(), min_size=1, max_size=8), st.floats(0, 1))
def test_a_constant_scorer_gets_chance_at_half_credit_and_nothing_elsewhere(many, constant):
    flat = [ScoredSample(str(n), ranks, (constant,) * len(ranks)) for n, (ranks, _) in enumerate(many)]
    figures, level = means(flat), chance(flat)
    assert figures["tie_rate"] == 1
    if level["pair_accuracy"] is None:
        return
    assert figures["pair_accuracy"] == figures["exact_order"] == figures["kendall_tau_b"] == 0
    assert figures["pair_accuracy_half"] == 0.5 == level["pair_accuracy"]
    assert math.isclose(figures["ndcg"], level["ndcg"])


@settings(deadline=None)  # the first call of scipy on a busy machine
@given(st.lists(samples(), min_size=1, max_size=8))
def test_the_true_order_gets_everything_and_no_figure_leaves_its_range(many):
    perfect = means(
        [ScoredSample(str(n), ranks, tuple(-float(rank) for rank in ranks)) for n, (ranks, _) in enumerate(many)]
    )
    for name in ("pair_accuracy", "pair_accuracy_half", "exact_order", "top1_accuracy", "kendall_tau_b", "ndcg"):
        assert perfect[name] is None or math.isclose(perfect[name], 1)
    figures = means([ScoredSample(str(n), *sample) for n, sample in enumerate(many)])
    for name in FIGURES:
        assert figures[name] is None or -1 - 1e-9 <= figures[name] <= 1 + 1e-9


def test_chance_is_the_mean_over_all_orders():
    for ranks in ((0, 1), (0, 1, 2), (0, 0, 1), (0, 1, 2, 3)):
        orders = [
            ScoredSample(str(n), ranks, tuple(map(float, order)))
            for n, order in enumerate(permutations(range(len(ranks))))
        ]
        expected, level = means(orders), chance([ScoredSample("a", ranks, (None,) * len(ranks))])
        for name, value in level.items():
            assert (value is None) == (expected[name] is None)
            assert value is None or math.isclose(expected[name], value, abs_tol=1e-12)


def test_intervals_resample_groups_and_coverage_counts_what_was_answered():
    many = [ScoredSample(str(n), (0, 1), (1.0, float(n % 2) * 2), group=str(n // 10)) for n in range(100)]
    alone = [ScoredSample(str(n), (0, 1), (1.0, float(n % 2) * 2)) for n in range(100)]
    grouped, single = strict_figures(many, 400, 0), strict_figures(alone, 400, 0)
    assert grouped["pair_accuracy"] == single["pair_accuracy"] == 0.5
    # every group holds five of each: resampling groups shows no spread, resampling samples does
    assert grouped["intervals"]["pair_accuracy"] == [0.5, 0.5]
    low, high = single["intervals"]["pair_accuracy"]
    assert math.isclose(high - low, 2 * 1.96 * 0.05, rel_tol=0.2)
    partial = strict_figures([*alone[:3], ScoredSample("x", (0, 1), (None, 1.0), complete=False)], 20, 0)
    assert partial["coverage"] == 0.75 and partial["samples"] == 4
    unreadable = strict_figures([ScoredSample("x", (0, 1), (None, 1.0))], 20, 0)  # answered, but not readable: wrong
    assert unreadable["coverage"] == 1 and unreadable["pair_accuracy"] == 0


def test_micro_accuracy_has_every_pair_in_its_denominator():
    pairs = [
        ScoredSample("1", (0, 1), (2.0, 1.0), "add", "overall"),
        ScoredSample("2", (0, 1), (1.0, 1.0), "add", "overall"),
        ScoredSample("3", (0, 1), (None, 1.0), "move", "overall", complete=False),
        ScoredSample("4", (0, 1), (2.0, 1.0), "move", "overall"),
        ScoredSample("5", (0, 1), (1.0, 2.0), "move", "consistency"),
    ]
    figures = pairwise_by_dimension(pairs, ("prompt_following", "consistency", "overall"))
    assert figures["micro_accuracies"] == {"prompt_following": None, "consistency": 0.0, "overall": 0.5}
    assert figures["macro_accuracies"] == {"prompt_following": None, "consistency": 0.0, "overall": 0.5}
    assert figures["missing_pairs"] == 1
