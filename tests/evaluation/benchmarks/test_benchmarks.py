"""What holds for every benchmark: its module's parts, its requests, and what scorers of known quality get."""

import inspect

import pytest

from evaluation.benchmarks import BENCHMARKS, load_benchmark
from evaluation.benchmarks.figures import benchmark_figures
from evaluation.options import NAMES
from tests.evaluation.benchmarks.runs import make_header, read_plan, verdict, write_run

PARTS = {
    "read": ["source"],
    "official_score": ["samples"],
    "read_official_results": ["results", "rows", "file"],
    "draw": ["samples", "seed", "side", "folder"],
}


@pytest.mark.parametrize("bench", BENCHMARKS)
def test_every_module_has_every_part(bench):
    module = load_benchmark(bench)
    assert module.TITLE and all(0 < value < 1 for value in module.PAPER.values())
    figures = module.official_score([])
    for key in module.HEADLINE:
        figures = figures[key]
    assert figures in (0, None)
    for name, parameters in PARTS.items():
        assert list(inspect.signature(getattr(module, name)).parameters) == parameters
    assert bench in NAMES


@pytest.mark.parametrize("bench", BENCHMARKS)
def test_candidates_are_shuffled_by_seed_and_requests_named_once(drawn, bench):
    plan, again, other = (read_plan(bench, drawn, seed=seed) for seed in (0, 0, 1))
    orders = [[[one["place"] for one in row["candidates"]] for row in of.rows] for of in (plan, again, other)]
    assert orders[0] == orders[1] != orders[2]
    assert any(order != sorted(order) for order in orders[0])
    assert not plan.errors and plan.failures({}, 1)
    request = plan.request(plan.names(1)[0])
    assert request.task == "sc" and len(request.images) == 1 + plan.rows[0]["sources"]
    count = sum(len(row["candidates"]) for row in plan.rows) * 2
    assert len(plan.prompts) <= count and (bench != "editreward-bench" or len(plan.prompts) < count)


@pytest.mark.parametrize("bench", BENCHMARKS)
def test_a_scorer_that_is_right_a_constant_one_and_one_that_fails(drawn, tmp_path, bench):
    plan = read_plan(bench, drawn)
    rank = {}  # of the candidate that a request is about, by key; best on each dimension of EditReward-Bench alike
    for row in plan.rows:
        for one in row["candidates"]:
            rank.setdefault(one["sc"], []).append(one["rank"])
            rank.setdefault(one["pq"], [0])

    def figures_of(answer):
        run = write_run(tmp_path / "verdicts.jsonl", make_header(bench, plan.rows), plan, answer)
        return benchmark_figures(run, "weighted", 50)

    def headline(figures):
        value = figures["published"]
        for key in load_benchmark(bench).HEADLINE:
            value = value[key]
        return value

    good = figures_of(lambda request: verdict(request.task, [25.0 - 5 * max(rank[request.key])] * 2))
    if bench != "editreward-bench":  # there a candidate can be the better one on one dimension, the worse on another
        assert good["honest"]["pair_accuracy"] == 1 == good["honest"]["exact_order"]
        assert good["honest"]["kendall_tau_b"] == pytest.approx(1) == good["honest"]["ndcg"]
        assert headline(good) == 1
    flat = figures_of(lambda request: verdict(request.task, [13, 13]))
    assert flat["honest"]["pair_accuracy"] == 0 and flat["honest"]["pair_accuracy_half"] == 0.5
    assert flat["honest"]["tie_rate"] == 1 and flat["honest"]["coverage"] == 1
    assert headline(flat) == 0
    if bench == "merbench":
        assert flat["published"]["avg_kendall_tau"] == flat["published"]["top1_accuracy"] == 1  # the official error
    if bench == "tiger-editreward-bench":
        assert (
            flat["published"]["3pair"]["pairwise_accuracy"] == 0
            and good["published"]["3pair"]["pairwise_accuracy"] == 1
        )

    unread = figures_of(lambda request: "no verdict")
    assert unread["honest"]["unparsed_rate"] == 1 and unread["honest"]["pair_accuracy_half"] == 0
    assert unread["honest"]["coverage"] == 1
    none = figures_of(lambda request: None)
    assert none["honest"]["coverage"] == 0 and none["honest"]["pair_accuracy_half"] == 0
