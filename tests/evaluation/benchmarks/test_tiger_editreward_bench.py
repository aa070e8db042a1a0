"""TIGER's EditReward-Bench: its rows, and its official rule by hand and beside a statement of its own."""

import random
import shutil
from statistics import mean

import pytest

from evaluation.benchmarks.strict import ScoredSample
from evaluation.benchmarks.tiger_editreward_bench import best_threshold, official_score
from spatial_edit_reward.errors import UserError


def voted(scores, votes):
    extra = ",".join(f"{i}{j}{vote:+d}" for (i, j), vote in votes.items())
    return ScoredSample("x", (0,) * len(scores), tuple(scores), extra=extra)


def test_pairs_are_put_together_to_samples(drawn):
    from evaluation.benchmarks.samples import read_samples

    samples = read_samples("tiger-editreward-bench", str(drawn / "tiger-editreward-bench"))
    assert [len(sample.candidates) for sample in samples] == [2] * 5 + [3] * 5 + [4] * 5
    for sample in samples:
        assert sorted(c.rank for c in sample.candidates) == list(range(len(sample.candidates)))
        assert len(sample.extra.split(",")) == len(sample.candidates) * (len(sample.candidates) - 1) // 2
    assert len({tuple(c.rank for c in sample.candidates) for sample in samples[5:10]}) > 1  # letters tell no order


def test_the_hub_has_one_split_without_configs(drawn, tmp_path, monkeypatch):
    """Its own code loads the one split "train" and filters by the column `dataset`. A folder of its name stands for the Hub."""
    from evaluation.benchmarks.samples import read_samples

    shutil.copytree(drawn / "tiger-editreward-bench", tmp_path / "TIGER-Lab" / "EditReward-Bench")
    monkeypatch.chdir(tmp_path)
    samples = read_samples("tiger-editreward-bench", None)
    assert [len(sample.candidates) for sample in samples] == [2] * 5 + [3] * 5 + [4] * 5


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("ranking", "A>C", "'A>C' is not about A and B"),
        ("dataset", "5pair", "dataset must be 2pair, 3pair or 4pair, got '5pair'"),
        ("id", "7", "7: A against B comes twice"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused(drawn, tmp_path, column, value, message):
    from datasets import Dataset

    from evaluation.benchmarks.samples import read_samples

    rows = Dataset.from_parquet(str(drawn / "tiger-editreward-bench" / "2pair" / "train-00000-of-00001.parquet"))
    rows = rows.remove_columns(column).add_column(column, [value] * len(rows))
    rows.to_parquet(str(tmp_path / "2pair.parquet"))
    with pytest.raises(UserError, match=message):
        read_samples("tiger-editreward-bench", str(tmp_path))


def test_the_best_tie_threshold_is_picked_for_two_candidates():
    two = [voted([0.9, 0.1], {(0, 1): 1}), voted([0.5, 0.4], {(0, 1): 0}), voted([0.2, 0.7], {(0, 1): 1})]
    # a threshold of about 0.1 makes the second right, the third stays wrong
    assert official_score(two)["2pair"] == {
        "pairwise_accuracy": 2 / 3,
        "strict_ranking_accuracy": 2 / 3,
        "pair_count": 3,
    }


def test_a_difference_of_just_the_threshold_is_a_tie():
    assert best_threshold([0, 0, 1], [0.25, 0.5, 1.0]) == (1.0, 0.5)


def test_all_pairs_are_judged_at_a_threshold_of_their_own():
    # tied by people and nearly by the scores: right only where a threshold is allowed
    samples = [voted([0.5, 0.4], {(0, 1): 0}), voted([0.9, 0.5, 0.1], {(0, 1): 1, (0, 2): 1, (1, 2): 1})]
    assert official_score(samples)["overall"]["pairwise_accuracy"] == 1


def test_three_candidates_are_ranked_exactly_or_not_at_all():
    votes = {(0, 1): -1, (0, 2): -1, (1, 2): 1}  # B, C, A
    figures = official_score([voted(scores, votes) for scores in ([0.1, 0.9, 0.5], [0.1, 0.5, 0.9], [0.5, 0.9, 0.5])])
    # of nine pairs wrong: B against C in the second, A against C tied in the third
    assert figures["3pair"] == {"pairwise_accuracy": 7 / 9, "strict_ranking_accuracy": 2 / 3, "pair_count": 9}


def test_random_files_by_a_statement_of_the_rule():
    """Thresholds tried on a fine grid; a ranking is right where no pair's vote speaks against the predicted order."""
    rng = random.Random(2)
    samples = []
    for n in [2] * 60 + [3] * 40 + [4] * 40:
        scores = [rng.randrange(8) / 8 for _ in range(n)]
        best_first = rng.sample(range(n), n)
        pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
        votes = {(i, j): 1 if best_first.index(i) < best_first.index(j) else -1 for i, j in pairs}
        if n == 2 and rng.random() < 0.3:
            votes = {(0, 1): 0}
        samples.append((scores, votes))

    def called(gap, threshold):
        return 0 if abs(gap) <= threshold else 1 if gap > 0 else -1

    def accuracy(of, threshold):
        return mean(called(s[i] - s[j], threshold) == vote for s, votes in of for (i, j), vote in votes.items())

    grid = [step / 16 for step in range(17)]
    figures = official_score([voted(*sample) for sample in samples])
    assert figures["overall"]["pairwise_accuracy"] == pytest.approx(max(accuracy(samples, t) for t in grid))
    for size in (2, 3, 4):
        of = [sample for sample in samples if len(sample[0]) == size]
        best = max(accuracy(of, t) for t in grid) if size == 2 else accuracy(of, 0.0)
        assert figures[f"{size}pair"]["pairwise_accuracy"] == pytest.approx(best)
        threshold = min(t for t in grid if accuracy(of, t) == best) if size == 2 else 0.0

        def right(scores, votes, threshold=threshold):
            if 0 in votes.values():
                return abs(scores[0] - scores[1]) <= threshold
            order = sorted(range(len(scores)), key=lambda i: (scores[i], i))[
                ::-1
            ]  # of equal ones the last stored first
            return all((order.index(i) < order.index(j)) == (vote > 0) for (i, j), vote in votes.items())

        assert figures[f"{size}pair"]["strict_ranking_accuracy"] == pytest.approx(mean(right(*one) for one in of))
