"""MER-Bench: its rows, its official rule by hand and beside a statement of its own, and the official result file."""

import io
import json
import math
import random

import numpy as np
import pytest
from PIL import Image

from evaluation.benchmarks.merbench import Ranking, official_score, rank_figures, read_official_results
from evaluation.benchmarks.official import falling
from evaluation.benchmarks.score import file_figures, score
from evaluation.benchmarks.strict import ScoredSample, strict_figures
from evaluation.options import ScoreConfig
from spatial_edit_reward.errors import UserError

RESULTS = {
    "a": {"scores": [3.0, 3.0], "pred_rank": [0, 1], "gt_rank": [0, 1], "label": "add", "pair_type": 2},
    "b": {"scores": [1, 3, 2], "pred_rank": [1, 2, 0], "gt_rank": [0, 1, 2], "label": "move", "pair_type": 3},
    "c": {"scores": [0.9, 0.5], "pred_rank": [0, 1], "gt_rank": [0, 1], "label": "add", "pair_type": 2},
    "d": {"error": "no answer"},
}


@pytest.fixture
def results(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    return tmp_path / "results.json"


def ranked(*rankings):
    """The official figures of results, each (pred_rank, scores, label)."""
    return official_score(
        [
            ScoredSample("x", tuple(range(len(pred))), tuple(scores) or (None,) * len(pred), label, extra=ranking)
            for pred, scores, label in rankings
            for ranking in [Ranking(pred, range(len(pred)), scores, len(pred))]
        ]
    )


def pixels(image):
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def test_rows_are_stored_best_first(drawn):
    from evaluation.benchmarks.draw import groups
    from evaluation.benchmarks.samples import read_samples

    samples = read_samples("merbench", str(drawn / "merbench"))
    assert [len(sample.candidates) for sample in samples] == [2] * 5 + [3] * 5 + [4] * 5
    for sample in samples:
        assert [candidate.rank for candidate in sample.candidates] == list(range(len(sample.candidates)))
    by_number = dict(zip(range(50), groups(4711 + 2, 64), strict=False))
    for sample in samples[:5]:
        group = by_number[int(sample.id.split("-")[1])]
        assert (
            sample.instruction == group.instruction and (pixels(sample.sources()[0]) == np.asarray(group.source)).all()
        )
        shown = [pixels(candidate.image()) for candidate in sample.candidates]
        overall = [next(e.overall for e in group.edits if (np.asarray(e.image) == image).all()) for image in shown]
        assert overall == sorted(overall, reverse=True) and overall[0] - overall[1] >= 0.05


@pytest.mark.parametrize("one_file", [False, True])
def test_ids_that_start_again_in_each_split_lose_no_row(tmp_path, one_file):
    from evaluation.benchmarks.samples import read_samples

    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    for size in (2, 3, 4):
        rows = [{"pair_id": i, "label": "add", "instruction": f"Add {i}.", "original_image": "x.png"} for i in range(5)]
        lines = [json.dumps(row | {"edited_images": ["x.png"] * size}) for row in rows]
        with (tmp_path / ("all.jsonl" if one_file else f"{size}pair.jsonl")).open("a") as file:
            file.write("\n".join(lines) + "\n")
    samples = read_samples("merbench", str(tmp_path))
    assert sorted(len(sample.candidates) for sample in samples) == [2] * 5 + [3] * 5 + [4] * 5
    assert len({candidate.id for sample in samples for candidate in sample.candidates}) == 45


def test_a_rotated_ranking_of_three():
    figures = ranked(([1, 2, 0], [1.0, 3.0, 2.0], "add"))
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert math.isclose(figures.pop("avg_ndcg"), (3 / math.log2(3) + 2 / 2 + 1 / 1) / ideal)
    assert math.isclose(figures.pop("avg_kendall_tau"), -1 / 3)
    assert figures == {
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
    # [1, 2, 0] and its inverse [2, 0, 1] get each other's NDCG: the error that official numbers depend on
    def right(pred):
        gains = [3 - index for index in pred]
        ideal = sum((3 - i) / math.log2(i + 2) for i in range(3))
        return sum(gain / math.log2(i + 2) for i, gain in enumerate(gains)) / ideal

    one, other = (rank_figures(Ranking(pred, [0, 1, 2], [], 3))["avg_ndcg"] for pred in ([1, 2, 0], [2, 0, 1]))
    assert math.isclose(one, right([2, 0, 1])) and math.isclose(other, right([1, 2, 0]))
    assert not math.isclose(one, other)


def test_a_constant_scorer_is_rewarded_but_for_exact_match():
    figures = official_score([ScoredSample("x", tuple(range(n)), (5.0,) * n, "x") for n in (2, 3, 4)])
    ones = ("avg_kendall_tau", "avg_spearman_rho", "avg_ndcg", "top1_accuracy", "top2_accuracy")
    assert all(math.isclose(figures[name], 1) for name in ones)
    assert figures["exact_match_acc"] == 0 and figures["avg_position_error"] == 0
    assert (figures["accuracy_2pair"], figures["accuracy_3pair"], figures["accuracy_4pair"]) == (0, 0, 0)


def test_one_tie_anywhere_spoils_exact_match_and_without_scores_there_is_none():
    one_by_one = [([0, 1, 2], scores, "x") for scores in ([3, 2, 1], [3, 2, 2], [])]
    assert [ranked(one)["exact_match_acc"] for one in one_by_one] == [1, 0, 1]
    assert ranked(*one_by_one)["accuracy_3pair"] == 2 / 3


def test_random_files_by_a_statement_of_the_rule():
    """Each figure from its textbook definition: ranks by sorting, tau and rho by scipy, gains by position."""
    from scipy.stats import kendalltau, spearmanr

    rng = random.Random(0)
    samples, expected = [], []
    for i in range(200):
        n = rng.choice([2, 3, 4])
        scores = tuple(rng.choice([1.0, 2.0, 2.5, 4.0, 9.0]) for _ in range(n))
        samples.append(ScoredSample(str(i), tuple(range(n)), scores, rng.choice("ab")))
        position = [sum(b > a or (b == a and j < k) for j, b in enumerate(scores)) for k, a in enumerate(scores)]
        order = sorted(range(n), key=position.__getitem__)
        discounts = [1 / math.log2(k + 2) for k in range(n)]
        gains = [n - k for k in range(n)]
        expected.append(
            {
                "exact_match_acc": position == list(range(n)) and len(set(scores)) == n,
                "avg_kendall_tau": kendalltau(order, range(n)).statistic,
                "avg_spearman_rho": spearmanr(order, range(n)).statistic,
                "avg_ndcg": sum(gains[k] * discounts[order[k]] for k in range(n)) / np.dot(gains, discounts),
                "top1_accuracy": order[0] == 0,
                "top2_accuracy": sorted(order[:2]) == [0, 1],
                "avg_position_error": np.mean(np.abs(np.array(order) - np.arange(n))),
            }
        )
    figures = official_score(samples)
    for name in expected[0]:
        assert figures[name] == pytest.approx(np.mean([one[name] for one in expected]), abs=1e-12)
    for size in (2, 3, 4):
        of_size = [e["exact_match_acc"] for e, s in zip(expected, samples, strict=True) if s.size == size]
        assert figures[f"accuracy_{size}pair"] == pytest.approx(np.mean(of_size))
    for label in "ab":
        of_label = [e["exact_match_acc"] for e, s in zip(expected, samples, strict=True) if s.category == label]
        assert figures["accuracy_by_label"][label] == pytest.approx(np.mean(of_label))
    assert falling(samples[0].scores) == sorted(range(samples[0].size), key=lambda i: (-samples[0].scores[i], i))


def test_samples_that_the_result_lacks_count_as_wrong_beside_the_benchmarks_rows(results, tmp_path, capsys):
    rows = [{"pair_id": name, "label": "add", "edited_images": ["x", "y"]} for name in "abcd"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = ScoreConfig(bench="merbench", file=results, benchmark_rows=tmp_path / "rows.jsonl", bootstrap_samples=20)
    figures = file_figures(config)
    assert figures["published"]["total_samples"] == 3  # left out of the denominator
    assert figures["honest"]["samples"] == 4 and figures["honest"]["coverage"] == 0.75
    assert figures["honest"]["top1_accuracy"] == 1 / 4 and figures["honest"]["pair_accuracy"] == 2 / 6
    with pytest.raises(SystemExit) as left:
        score(config)
    assert left.value.code == 3 and "NOT A RESULT, 75.0% coverage" in capsys.readouterr().out
    score(config.model_copy(update={"partial": True}))
    assert "partial, 75.0% coverage" in capsys.readouterr().out


def test_rows_with_one_id_twice_are_refused(tmp_path):
    rows = [{"pair_id": 0, "pair_type": "2pair"}, {"pair_id": 0, "pair_type": "3pair"}]
    with pytest.raises(UserError, match="benchmark row 2: pair_id '0' comes again"):
        read_official_results({}, rows, tmp_path)


def test_a_score_that_is_no_number_is_not_complete(tmp_path):
    results = {"a": {"scores": [math.nan, 1.0], "pred_rank": [0, 1], "gt_rank": [0, 1]}}
    samples = read_official_results(results, None, tmp_path)
    strict = strict_figures(samples, 20, 0)
    assert strict["coverage"] == 0 and strict["pair_accuracy"] == strict["top1_accuracy"] == 0
    assert official_score(samples)["exact_match_acc"] == 1  # the official rule looks at the ranking in the file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected one JSON object"),
        ("{", "neither a result file of ours nor one JSON object"),
        ('{"a": {"pred_rank": [0, 0], "gt_rank": [0, 1]}}', "a: pred_rank and gt_rank must each list"),
        ('{"a": {"pred_rank": [0, 1], "gt_rank": [0, 1], "scores": [1]}}', "1 scores for 2 candidates"),
        ('{"a": {"pred_rank": [0, "x"], "gt_rank": [0, 1]}}', "a: pred_rank and gt_rank must each list"),
        ('{"a": {"pred_rank": [0, 1], "gt_rank": [0, 1], "pair_type": 7}}', "pair_type must be 2, 3 or 4"),
        ('{"a": 3}', "a: expected an object"),
    ],
)
def test_a_bad_result_is_named(tmp_path, content, message):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=message):
        file_figures(ScoreConfig(bench="merbench", file=tmp_path / "results.json", bootstrap_samples=20))
