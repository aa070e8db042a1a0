"""`python -m evaluation score` on result files of ours and of the published evaluation."""

import json
import math

import pytest

from data.rows import load_rows
from evaluation.benchmarks import heldout
from evaluation.benchmarks.plan import names, plan_heldout, plan_samples
from evaluation.benchmarks.read import BENCHES, read_samples
from evaluation.benchmarks.score import PARTIAL_STATUS, figures_of, score
from evaluation.benchmarks.scores import both_rules, candidate_score, overall, verdict_rates
from spatial_edit_reward import aggregate, load_spec, render
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.request import Response
from tests.conftest import run_stage
from tests.evaluation.benchmarks.runs import SPEC, head, saved, verdict

MERBENCH = {
    "a": {"scores": [3.0, 3.0], "pred_rank": [0, 1], "gt_rank": [0, 1], "label": "add", "pair_type": 2},
    "b": {"scores": [1, 3, 2], "pred_rank": [1, 2, 0], "gt_rank": [0, 1, 2], "label": "move", "pair_type": 3},
    "c": {"scores": [0.9, 0.5], "pred_rank": [0, 1], "gt_rank": [0, 1], "label": "add", "pair_type": 2},
    "d": {"error": "no answer"},
}


@pytest.fixture
def merbench_json(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(MERBENCH))
    return tmp_path / "results.json"


def test_the_command_prints_one_object_for_a_published_result(merbench_json):
    done = run_stage("evaluation", "score", "merbench", merbench_json, "--json", "--bootstrap_samples", 50)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"published", "honest"}
    published, honest = found["published"], found["honest"]
    assert published["total_samples"] == 3 and published["exact_match_acc"] == 1 / 3
    assert (
        published["top1_accuracy"] == 2 / 3
        and published["accuracy_2pair"] == 0.5
        and published["accuracy_4pair"] is None
    )
    assert math.isclose(published["avg_kendall_tau"], (1 - 1 / 3 + 1) / 3)
    # the sample without a ranking stays in these denominators
    assert honest["top1_accuracy"] == 1 / 4 and honest["tie_rate"] == 1 / 4 and honest["coverage"] == 3 / 4
    assert honest["pair_accuracy"] == (0 + 1 + 1) / 6 and honest["pair_accuracy_half"] == 2.5 / 6


def test_samples_that_the_result_lacks_count_as_wrong_beside_the_benchmarks_rows(merbench_json, tmp_path, capsys):
    rows = [{"pair_id": name, "label": "add", "edited_images": ["x", "y"]} for name in "abcd"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = figures_of("merbench", merbench_json, tmp_path / "rows.jsonl", "weighted", 20)
    assert found["published"]["total_samples"] == 3  # left out of the denominator
    assert found["honest"]["samples"] == 4 and found["honest"]["coverage"] == 0.75
    assert found["honest"]["top1_accuracy"] == 1 / 4 and found["honest"]["pair_accuracy"] == 2 / 6
    with pytest.raises(SystemExit) as left:
        score("merbench", merbench_json, tmp_path / "rows.jsonl", "weighted", False, False, 20)
    assert left.value.code == PARTIAL_STATUS and "NOT A RESULT, 75.0% coverage" in capsys.readouterr().out
    score("merbench", merbench_json, tmp_path / "rows.jsonl", "weighted", False, True, 20)
    assert "partial, 75.0% coverage" in capsys.readouterr().out


def test_editreward_bench_needs_its_rows_and_counts_missing_pairs(tmp_path):
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
    found = figures_of("editreward-bench", tmp_path / "results.json", tmp_path / "rows.jsonl", "weighted", 20)
    # overall: add 1/2, move 0 of 1 (a tie); consistency: add has none, 0; move 0 of 1; text has no scored pair
    assert found["published"]["average_accuracies"] == {"prompt_following": 0.0, "consistency": 0.0, "overall": 0.25}
    assert found["honest"]["micro_accuracies"] == {"prompt_following": 0.0, "consistency": 0.0, "overall": 1 / 3}
    assert found["honest"]["missing_pairs"] == 2 and found["honest"]["coverage"] == 4 / 6
    with pytest.raises(UserError, match="--benchmark-rows"):
        figures_of("editreward-bench", tmp_path / "results.json", None, "weighted", 20)


def test_mmrb2_by_its_rows(tmp_path):
    results = {
        "p1_A": {"scores": {"overall": 5}},
        "p1_B": {"scores": {"overall": 4}},
        "p2_A": {"scores": {"overall": 4}},
    }
    rows = [
        {"pair_id": "p1", "chosen": "a", "prompt_images": [1, 2]},
        {"pair_id": "p2", "chosen": "B", "prompt_images": [1]},
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = figures_of("mmrb2", tmp_path / "results.json", tmp_path / "rows.jsonl", "weighted", 20)
    assert found["published"]["overall_accuracy"] == 1 and found["published"]["missing_pairs"] == 1
    assert found["published"]["per_image_count_accuracy"] == {"2": 1.0}
    assert found["honest"]["pair_accuracy"] == 0.5 and found["honest"]["by_sources"]["2"]["pair_accuracy"] == 1


@pytest.mark.parametrize(
    ("content", "said"),
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
def test_a_bad_result_is_named(tmp_path, content, said):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=said):
        figures_of("merbench", tmp_path / "results.json", None, "weighted", 20)


@pytest.mark.parametrize("bench", BENCHES)
def test_a_scorer_that_is_right_a_constant_one_and_one_that_fails(drawn, tmp_path, bench):
    plan = plan_samples(read_samples(bench, str(drawn / bench)), SPEC, 0)
    rank = {}  # of the candidate that a question is about, by key; best on each dimension of EditReward-Bench alike
    for row in plan.rows:
        for one in row["candidates"]:
            rank.setdefault(one["sc"], []).append(one["rank"])
            rank.setdefault(one["pq"], [0])

    def right(question):
        return verdict(question.task, [25.0 - 5 * max(rank[question.key])] * 2)

    good = both_rules(saved(tmp_path / "good", head(bench, plan.rows), plan, right), "weighted", 50)
    if bench != "editreward-bench":  # there a candidate can be the better one on one dimension, the worse on another
        assert good["honest"]["pair_accuracy"] == 1 == good["honest"]["exact_order"]
        assert good["honest"]["kendall_tau_b"] == pytest.approx(1) == good["honest"]["ndcg"]
    flat_run = saved(tmp_path / "flat", head(bench, plan.rows), plan, lambda question: verdict(question.task, [13, 13]))
    flat = both_rules(flat_run, "weighted", 50)
    assert flat["honest"]["pair_accuracy"] == 0 and flat["honest"]["pair_accuracy_half"] == 0.5
    assert flat["honest"]["tie_rate"] == 1 and flat["honest"]["coverage"] == 1
    key = {
        "merbench": lambda p: p["exact_match_acc"],
        "editreward-bench": lambda p: p["average_accuracies"]["overall"],
        "tiger-editreward-bench": lambda p: p["3pair"]["pairwise_accuracy"],
        "mmrb2": lambda p: p["overall_accuracy"],
    }[bench]
    assert key(flat["published"]) == 0 and (bench == "editreward-bench" or key(good["published"]) == 1)
    if bench == "merbench":
        assert flat["published"]["avg_kendall_tau"] == flat["published"]["top1_accuracy"] == 1  # the published fault

    unread = both_rules(
        saved(tmp_path / "unread", head(bench, plan.rows), plan, lambda question: "no verdict"), "weighted", 50
    )
    assert unread["honest"]["unparsed_rate"] == 1 and unread["honest"]["pair_accuracy_half"] == 0
    assert unread["honest"]["coverage"] == 1
    none = both_rules(saved(tmp_path / "none", head(bench, plan.rows), plan, lambda question: None), "weighted", 50)
    assert none["honest"]["coverage"] == 0 and none["honest"]["pair_accuracy_half"] == 0


def test_aggregations_by_hand():
    sc, pq = (20.0, 10.0), (15.0, 25.0)
    assert overall(sc, pq, "weighted", SPEC) == round(aggregate(sc, pq, SPEC), 9)
    assert overall(sc, pq, "min", SPEC) == round(math.sqrt(10 / 25 * 15 / 25), 9)
    assert overall(sc, pq, "mean", SPEC) == round(math.sqrt(15 / 25 * 20 / 25), 9)
    # 0.6 * 20 + 0.4 * 5 = 0.6 * 10 + 0.4 * 20: equal by arithmetic, not in floats
    assert overall((20.0, 5.0), pq, "weighted", SPEC) == overall((10.0, 20.0), pq, "weighted", SPEC)


def test_samples_are_averaged_and_expected_scores_used_where_asked(drawn, tmp_path):
    plan = plan_samples(read_samples("mmrb2", str(drawn / "mmrb2"))[:1], SPEC, 0)
    candidate = plan.rows[0]["candidates"][0]

    def said(question):
        scores = [20.0, 10.0] if question.sample else [10.0, 20.0]
        text = verdict(question.task, scores) if question.sample < 2 else "no verdict"
        return Response(text, question.sample == 2, [12.5, 17.5])

    made = head("mmrb2", plan.rows, samples=3, expected_score=True)
    run = saved(tmp_path / "verdicts.jsonl", made, plan, said)
    assert candidate_score(run, candidate, "overall", "min", False) == 15 / 25
    assert candidate_score(run, candidate, "prompt_following", "weighted", False) == 15
    assert candidate_score(run, candidate, "consistency", "weighted", True) == 17.5
    assert verdict_rates(run)["unparsed_rate"] == verdict_rates(run)["truncated_rate"] == 1 / 3
    found = figures_of("mmrb2", tmp_path / "verdicts.jsonl", None, "min", 20, expected=True)
    assert found["honest"]["tie_rate"] == 1
    with pytest.raises(UserError, match="holds verdicts of mmrb2, not of merbench"):
        figures_of("merbench", tmp_path / "verdicts.jsonl", None, "min", 20)


def test_heldout_rows_are_scored_from_the_file_and_blind_ones_see_one_picture(small_data, tmp_path):
    spec = load_spec(small_data)
    rows = load_rows(small_data / "heldout.parquet", spec)
    plan, blind = plan_heldout(rows, spec, False), plan_heldout(rows, spec, True)
    assert len(plan.asked) == len(rows) > len(blind.asked)  # blind, an instruction is asked about once for each task
    shown = [blind.question(name).images for name in names(blind, 1)]
    assert len({image.tobytes() for images in shown for image in images}) == 1
    truth = {row["key"]: row["reference"] for row in plan.rows}
    made = head("heldout", plan.rows, spec=spec.model_dump(mode="json"))
    run = saved(tmp_path / "verdicts.jsonl", made, plan, lambda question: render(question.task, truth[question.key]))
    found = heldout.figures(run, 50)
    assert found["published"] is None and found["honest"]["coverage"] == 1
    assert found["honest"]["score_agreement"] == found["honest"]["reward"] == found["honest"]["mean_box_iou"] == 1
    assert found["honest"]["ranking_accuracy"] == 1
    assert figures_of("heldout", tmp_path / "verdicts.jsonl", None, "weighted", 50) == found


def test_empty_region_precision_and_recall_by_hand():
    def pair(region, said, task="sc"):
        text = (
            json.dumps({"edit_region": said, "reasoning": "x", "score": [1, 1]}) if said is not None else "no verdict"
        )
        return {"task": task, "reference": {"edit_region": region}}, {"text": text}

    box = [{"id": 0, "label": "x", "bbox_2d": [0, 0, 10, 10]}]
    pairs = [pair([], []), pair([], []), pair([], box), pair([], None), pair(box, []), pair(box, box), pair(None, [])]
    found = heldout.empty_regions([*pairs, pair(None, [], "pq")])
    assert found == {"empty_region_precision": 2 / 3, "empty_region_recall": 0.5, "said_empty": 3, "truly_empty": 4}
    assert heldout.empty_regions([])["empty_region_precision"] is None
