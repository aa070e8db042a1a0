"""EditScore's EditReward-Bench: its rows, its official rule by hand and beside a statement of its own, the official file."""

import json
import math
import random
from statistics import mean

import pytest

from evaluation.benchmarks.editreward_bench import DIMENSIONS, official_score, read_official_results
from evaluation.benchmarks.score import file_figures
from evaluation.benchmarks.strict import ScoredSample, strict_figures
from evaluation.options import ScoreConfig
from spatial_edit_reward.errors import UserError


def compared(kind, dimension, *scores):
    return ScoredSample("x", (0, 1), scores, kind, dimension)


def test_rows_have_a_dimension_and_a_type_for_each_pair(drawn):
    from evaluation.benchmarks.samples import read_samples

    samples = read_samples("editreward-bench", str(drawn / "editreward-bench"))
    assert {sample.dimension for sample in samples} == {"prompt_following", "consistency", "overall"}
    assert all([c.rank for c in sample.candidates] == [0, 1] for sample in samples)
    assert len({sample.id for sample in samples}) == len(samples) == 15


def test_a_missing_dimension_of_a_scored_type_counts_as_nothing():
    figures = official_score(
        [
            compared("add", "overall", 2, 1),
            compared("add", "overall", 1, 1),  # a tie is wrong
            compared("add", "consistency", 3, 1),
            compared("move", "overall", 3, 1),
            compared("move", "overall", None, 1),  # left out of the denominator
            compared("text", "prompt_following", None, None),  # the only pair of its type: the type is left out
        ]
    )
    assert figures["accuracies"] == {
        "add": {"prompt_following": 0.0, "consistency": 1.0, "overall": 0.5},
        "move": {"prompt_following": 0.0, "consistency": 0.0, "overall": 1.0},
    }
    assert figures["average_accuracies"] == {"prompt_following": 0.0, "consistency": 0.5, "overall": 0.75}
    assert figures["scored_pairs"] == 4
    assert official_score([])["average_accuracies"]["overall"] == 0.0


def test_random_files_by_a_statement_of_the_rule():
    """Counters of right and scored pairs by type and dimension, NaN among the scores: it is compared, and never above."""
    rng = random.Random(1)
    levels = [None, math.nan, 1.0, 2.0, 3.0]
    samples = [
        compared(rng.choice("abc"), rng.choice(DIMENSIONS), rng.choice(levels), rng.choice(levels)) for _ in range(300)
    ]
    count, right = {}, {}
    for sample in samples:
        first, second = sample.scores
        if first is None or second is None:
            continue
        cell = sample.category, sample.dimension
        count[cell] = count.get(cell, 0) + 1
        right[cell] = right.get(cell, 0) + (first - second > 0)
    figures = official_score(samples)
    assert figures["scored_pairs"] == sum(count.values())
    for name in DIMENSIONS:
        shares = [right.get((kind, name), 0) / count.get((kind, name), 1) for kind in {kind for kind, _ in count}]
        assert figures["average_accuracies"][name] == pytest.approx(mean(shares), abs=1e-12)


def test_the_official_file_needs_the_rows_and_missing_pairs_are_counted(tmp_path):
    results = {
        "k1": {"scores": {"overall": 5.0, "consistency": 1.0}},
        "k2": {"scores": {"overall": 4.0, "consistency": 1.0}},
        "k3": {"scores": {"overall": 5.0}},
    }
    pairs = [
        ("k1", "k2", "add", "overall"),
        ("k2", "k1", "add", "overall"),
        ("k1", "k3", "move", "overall"),
        ("k1", "k2", "move", "consistency"),
        ("k1", "k3", "move", "consistency"),
        ("k1", "k9", "text", "prompt_following"),
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    rows = [{"key": [a, b], "task_type": kind, "dimension": dimension} for a, b, kind, dimension in pairs]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = ScoreConfig(bench="editreward-bench", file=tmp_path / "results.json", bootstrap_samples=20)
    figures = file_figures(config.model_copy(update={"benchmark_rows": tmp_path / "rows.jsonl"}))
    # overall: add 1/2, move 0 of 1 (a tie); consistency: add has none, 0; move 0 of 1; text has no scored pair
    assert figures["published"]["average_accuracies"] == {"prompt_following": 0.0, "consistency": 0.0, "overall": 0.25}
    assert figures["honest"]["micro_accuracies"] == {"prompt_following": 0.0, "consistency": 0.0, "overall": 1 / 3}
    assert figures["honest"]["missing_pairs"] == 2 and figures["honest"]["coverage"] == 4 / 6
    with pytest.raises(UserError, match="--benchmark-rows"):
        file_figures(config)


def test_nan_is_a_wrong_pair_of_the_official_rule_and_a_missing_one_of_the_strict(tmp_path):
    results = json.loads('{"a": {"scores": {"overall": NaN}}, "b": {"scores": {"overall": 2}}}')
    rows = [{"key": pair, "task_type": "add", "dimension": "overall"} for pair in (["a", "b"], ["b", "a"])]
    samples = read_official_results(results, rows, tmp_path)
    official = official_score(samples)
    assert official["scored_pairs"] == 2 and official["average_accuracies"]["overall"] == 0
    strict = strict_figures(samples, 20, 0)
    assert strict["coverage"] == 0 and strict["pair_accuracy"] == strict["tie_rate"] == 0
