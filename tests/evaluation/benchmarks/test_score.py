"""`python -m evaluation score` as a command, and the scores of candidates in a file of responses."""

import json
import math

import pytest

from evaluation.benchmarks.figures import candidate_score, official_candidate_score, overall
from evaluation.benchmarks.score import file_figures
from evaluation.options import ScoreConfig
from evaluation.responses import verdict_rates
from spatial_edit_reward import aggregate
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.request import Response
from tests.conftest import run_stage
from tests.evaluation.benchmarks.runs import SPEC, make_header, read_plan, verdict, write_run
from tests.evaluation.benchmarks.test_merbench import RESULTS


def test_the_command_prints_one_object_for_an_official_result(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    done = run_stage("evaluation", "score", "merbench", tmp_path / "results.json", "--json", "--bootstrap_samples", 50)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert set(figures) == {"published", "honest"}
    official, strict = figures["published"], figures["honest"]
    assert official["total_samples"] == 3 and official["exact_match_acc"] == 1 / 3
    assert (
        official["top1_accuracy"] == 2 / 3 and official["accuracy_2pair"] == 0.5 and official["accuracy_4pair"] is None
    )
    assert math.isclose(official["avg_kendall_tau"], (1 - 1 / 3 + 1) / 3)
    # the sample without a ranking stays in these denominators
    assert strict["top1_accuracy"] == 1 / 4 and strict["tie_rate"] == 1 / 4 and strict["coverage"] == 3 / 4
    assert strict["pair_accuracy"] == (0 + 1 + 1) / 6 and strict["pair_accuracy_half"] == 2.5 / 6


def test_aggregations_by_hand():
    sc, pq = (20.0, 10.0), (15.0, 25.0)
    assert overall(sc, pq, "weighted", SPEC) == round(aggregate(sc, pq, SPEC), 9)
    assert overall(sc, pq, "min", SPEC) == round(math.sqrt(10 / 25 * 15 / 25), 9)
    assert overall(sc, pq, "mean", SPEC) == round(math.sqrt(15 / 25 * 20 / 25), 9)
    # 0.6 * 20 + 0.4 * 5 = 0.6 * 10 + 0.4 * 20: equal by arithmetic, not in floats
    assert overall((20.0, 5.0), pq, "weighted", SPEC) == overall((10.0, 20.0), pq, "weighted", SPEC)


def test_samples_are_averaged_and_expected_scores_used_where_asked(drawn, tmp_path):
    plan = read_plan("mmrb2", drawn, 1)
    candidate = plan.rows[0]["candidates"][0]

    def answer(request):
        scores = [20.0, 10.0] if request.sample else [10.0, 20.0]
        text = verdict(request.task, scores) if request.sample < 2 else "no verdict"
        return Response(text, request.sample == 2, [12.5, 17.5])

    file = tmp_path / "verdicts.jsonl"
    run = write_run(file, make_header("mmrb2", plan.rows, samples=3, expected_score=True), plan, answer)
    assert candidate_score(run, candidate, "overall", "min", False) == 15 / 25
    assert candidate_score(run, candidate, "prompt_following", "weighted", False) == 15
    assert candidate_score(run, candidate, "consistency", "weighted", True) == 17.5
    assert verdict_rates(run)["unparsed_rate"] == verdict_rates(run)["truncated_rate"] == 1 / 3
    config = ScoreConfig(bench="mmrb2", file=file, aggregation="min", bootstrap_samples=20)
    assert file_figures(config.model_copy(update={"expected_score": True}))["honest"]["tie_rate"] == 1
    with pytest.raises(UserError, match="holds verdicts of mmrb2, not of merbench"):
        file_figures(config.model_copy(update={"bench": "merbench"}))


def test_a_perfect_verdict_of_another_range_beats_an_unreadable_one_by_the_official_rule(drawn, tmp_path):
    plan = read_plan("mmrb2", drawn, 1)
    first, second = plan.rows[0]["candidates"]
    header = make_header("mmrb2", plan.rows, spec={**SPEC.model_dump(mode="json"), "score_range": [0, 10]})
    perfect = {first["sc"], first["pq"]}
    run = write_run(
        tmp_path / "verdicts.jsonl", header, plan, lambda r: verdict(r.task, [10, 10]) if r.key in perfect else "no"
    )
    assert official_candidate_score(run, first, "overall", "min") == 10
    assert official_candidate_score(run, second, "overall", "min") == 5


@pytest.mark.parametrize("scores", [None, [99, 1]])
def test_an_expected_score_does_not_stand_for_a_written_one_that_cannot_be_used(drawn, tmp_path, scores):
    plan = read_plan("mmrb2", drawn, 1)
    header = make_header("mmrb2", plan.rows, expected_score=True)

    def answer(request):
        return Response(verdict(request.task, scores) if scores else "no verdict", False, [12.5, 17.5])

    run = write_run(tmp_path / "verdicts.jsonl", header, plan, answer)
    assert candidate_score(run, plan.rows[0]["candidates"][0], "overall", "weighted", True) is None
