"""The published rules on cases computed by hand: ties, permutations, missing results."""

import math

import pytest

from evaluation.benchmarks import published
from evaluation.benchmarks.published import UNREADABLE, Compared, Preferred, Ranked, Voted


def test_a_rotated_ranking_of_three():
    found = published.merbench([Ranked([1, 2, 0], [0, 1, 2], [1.0, 3.0, 2.0], "add", 3)])
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert math.isclose(found.pop("avg_ndcg"), (3 / math.log2(3) + 2 / 2 + 1 / 1) / ideal)
    assert math.isclose(found.pop("avg_kendall_tau"), -1 / 3)
    assert found == {
        "total_samples": 1,
        "exact_match_acc": 0.0,
        "avg_spearman_rho": -0.5,
        "top1_accuracy": 0.0,
        "top2_accuracy": 0.0,
        "avg_position_error": 4 / 3,
        "accuracy_2pair": None,
        "accuracy_3pair": 0.0,
        "accuracy_4pair": None,
        "accuracy_by_label": {"add": 0.0},
    }


def test_ndcg_looks_up_the_inverse_of_the_ranking():
    # [1, 2, 0] and its inverse [2, 0, 1] get each other's NDCG: the fault that published numbers depend on
    def right(pred):
        gains = [3 - place for place in pred]
        ideal = sum((3 - i) / math.log2(i + 2) for i in range(3))
        return sum(gain / math.log2(i + 2) for i, gain in enumerate(gains)) / ideal

    one, other = (published.rank_figures(pred, [0, 1, 2], [])["ndcg"] for pred in ([1, 2, 0], [2, 0, 1]))
    assert math.isclose(one, right([2, 0, 1])) and math.isclose(other, right([1, 2, 0]))
    assert not math.isclose(one, other)


def test_a_constant_scorer_is_rewarded_but_for_exact_match():
    found = published.merbench(
        [Ranked(published.falling([5.0] * n), range(n), [5.0] * n, "x", n) for n in (2, 3, 4)],
    )
    ones = ("avg_kendall_tau", "avg_spearman_rho", "avg_ndcg", "top1_accuracy", "top2_accuracy")
    assert all(math.isclose(found[name], 1) for name in ones)
    assert found["exact_match_acc"] == 0 and found["avg_position_error"] == 0
    assert (found["accuracy_2pair"], found["accuracy_3pair"], found["accuracy_4pair"]) == (0, 0, 0)


def test_one_tie_anywhere_spoils_exact_match_and_without_scores_there_is_none():
    found = [Ranked([0, 1, 2], [0, 1, 2], scores, "x", 3) for scores in ([3, 2, 1], [3, 2, 2], [])]
    assert [published.merbench([one])["exact_match_acc"] for one in found] == [1, 0, 1]
    assert published.merbench(found)["accuracy_3pair"] == 2 / 3


def test_falling_is_stable():
    assert published.falling([1, 2, 2, 3]) == [3, 1, 2, 0]


def test_editreward_bench_counts_a_missing_dimension_of_a_scored_type_as_nothing():
    found = published.editreward_bench(
        [
            Compared("add", "overall", 2, 1),
            Compared("add", "overall", 1, 1),  # a tie is wrong
            Compared("add", "consistency", 3, 1),
            Compared("move", "overall", 3, 1),
            Compared("move", "overall", None, 1),  # left out of the denominator
            Compared("text", "prompt_following", None, None),  # the only pair of its type: the type is left out
        ]
    )
    assert found["accuracies"] == {
        "add": {"prompt_following": 0.0, "consistency": 1.0, "overall": 0.5},
        "move": {"prompt_following": 0.0, "consistency": 0.0, "overall": 1.0},
    }
    assert found["average_accuracies"] == {"prompt_following": 0.0, "consistency": 0.5, "overall": 0.75}
    assert found["scored_pairs"] == 4
    assert published.editreward_bench([])["average_accuracies"]["overall"] == 0.0


def test_mmrb2_takes_ties_for_wrong_and_skips_what_is_missing():
    found = published.mmrb2(
        [
            Preferred(2, 1, "A", "one", 1),
            Preferred(2, 1, "B", "one", 1),
            Preferred(1, 1, "A", "two", 2),
            Preferred(1, 2, "B", "two", 1),
            Preferred(None, 2, "B", "two", 1),
        ]
    )
    assert found == {
        "overall_accuracy": 0.5,
        "total_pairs": 4,
        "correct_predictions": 2,
        "missing_pairs": 1,
        "per_source_accuracy": {"one": 0.5, "two": 0.5},
        "per_image_count_accuracy": {"1": 2 / 3, "2": 0.0},
    }


def test_tiger_picks_the_best_tie_threshold_for_two_candidates():
    two = [
        Voted([0.9, 0.1], {(0, 1): 1}),
        Voted([0.5, 0.4], {(0, 1): 0}),
        Voted([0.2, 0.7], {(0, 1): 1}),
    ]
    found = published.tiger(two)["2pair"]
    # a threshold of about 0.1 makes the second right, the third stays wrong
    assert found == {"pairwise_accuracy": 2 / 3, "strict_ranking_accuracy": 2 / 3, "pair_count": 3}


def test_tiger_ranks_three_candidates_exactly_or_not_at_all():
    votes = {(0, 1): -1, (0, 2): -1, (1, 2): 1}  # B, C, A
    found = published.tiger(
        [Voted([0.1, 0.9, 0.5], votes), Voted([0.1, 0.5, 0.9], votes), Voted([0.5, 0.9, 0.5], votes)]
    )
    # of nine pairs wrong: B against C in the second, A against C tied in the third
    assert found["3pair"] == {"pairwise_accuracy": 7 / 9, "strict_ranking_accuracy": 2 / 3, "pair_count": 9}


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
    assert published.lenient_scores(text) == scores


def test_overall_scores_in_the_published_order_of_operations():
    sc, pq = (20.0, 10.0), (15.0, 25.0)
    assert published.combined(sc, pq, "weighted") == (0.6 * 8.0 + 0.4 * 4.0) ** 0.8 * (0.5 * 6.0 + 0.5 * 10.0) ** (
        1 - 0.8
    )
    assert published.combined(sc, pq, "min") == math.sqrt(4.0 * 6.0)
    assert published.combined(sc, pq, "mean") == math.sqrt(6.0 * 8.0)
