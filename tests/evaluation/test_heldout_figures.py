"""The figures of held-out responses: from a file of them, blind, and in the report over a run."""

import json
import shutil

import pytest
import yaml

from evaluation.benchmarks.score import file_figures
from evaluation.heldout import empty_regions, heldout_figures, plan_heldout
from evaluation.options import BenchmarkConfig, ScoreConfig
from evaluation.recipe import EvalRecipe
from spatial_edit_reward import load_spec, render
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.request import Response
from tests.conftest import BASE
from tests.evaluation.benchmarks.runs import make_header, write_run


@pytest.fixture
def plan(small_data):
    from data.rows import load_rows

    spec = load_spec(small_data)
    return plan_heldout(load_rows(small_data / "heldout.parquet", spec), spec)


def answer_right(plan):
    truth = {row["key"]: row["reference"] for row in plan.rows}
    return lambda request: render(request.task, truth[request.key])


def test_rows_are_scored_from_the_file_and_blind_ones_see_one_image(plan, small_data, tmp_path):
    from data.rows import load_rows

    rows = load_rows(small_data / "heldout.parquet", plan.spec)
    blind = plan_heldout(rows, plan.spec, blind=True)
    # blind, an instruction is asked about once for each task
    assert len(plan.prompts) == len(rows) > len(blind.prompts)
    shown = [blind.request(name).images for name in blind.names(1)]
    assert len({image.tobytes() for images in shown for image in images}) == 1
    header = make_header("heldout", plan.rows, spec=plan.spec.model_dump(mode="json"))
    file = tmp_path / "verdicts.jsonl"
    run = write_run(file, header, plan, answer_right(plan))
    figures = heldout_figures(run, 50)
    assert figures["published"] is None and figures["honest"]["coverage"] == 1
    assert figures["honest"]["score_agreement"] == figures["honest"]["reward"] == figures["honest"]["mean_box_iou"] == 1
    assert figures["honest"]["ranking_accuracy"] == 1
    assert file_figures(ScoreConfig(bench="heldout", file=file, bootstrap_samples=50)) == figures


def test_empty_region_precision_and_recall_by_hand():
    def pair(region, predicted, task="sc"):
        text = json.dumps({"edit_region": predicted, "reasoning": "x", "score": [1, 1]})
        reference = {"task": task, "reference": {"edit_region": region}}
        return reference, {"text": "no verdict" if predicted is None else text}

    box = [{"id": 0, "label": "x", "bbox_2d": [0, 0, 10, 10]}]
    pairs = [pair([], []), pair([], []), pair([], box), pair([], None), pair(box, []), pair(box, box), pair(None, [])]
    figures = empty_regions([*pairs, pair(None, [], "pq")])
    assert figures == {"empty_region_precision": 2 / 3, "empty_region_recall": 0.5, "said_empty": 3, "truly_empty": 4}
    assert empty_regions([])["empty_region_precision"] is None


@pytest.fixture
def run_dir(small_data, tmp_path):
    """A run whose stages are finished, stage 2 without LoRA; every model is the base."""
    from pipeline.fingerprint import mark_finished

    folder = tmp_path / "run"
    for name in ("sft/merged", "grpo/weights", "merge"):
        shutil.copytree(BASE, folder / name)
        shutil.copy(small_data / "verdict.json", folder / name)
    (folder / "data").symlink_to(small_data)
    for name in ("sft", "grpo"):
        mark_finished(folder / name, {})
    return folder


def make_recipe(run_dir, **rewards):
    (run_dir / "grpo.yaml").write_text(yaml.safe_dump(rewards or {"reward_funcs": ["format"]}))
    recipe = {"run_dir": run_dir, "base": str(BASE), "rewards_from": run_dir / "grpo.yaml", "batch_size": 16}
    return EvalRecipe(**recipe, bootstrap_samples=20)


def test_a_stage_2_without_lora_goes_through_evaluation(run_dir):
    from evaluation.benchmarks.run import run_benchmarks
    from evaluation.heldout import write_heldout
    from evaluation.report import make_report

    recipe = make_recipe(run_dir)
    assert recipe.models()["grpo"] == (str(run_dir / "grpo" / "weights"), None)
    write_heldout(recipe, overwrite=False)
    report = make_report(recipe)
    assert report["merged_equals_grpo"]["same"] == report["merged_equals_grpo"]["rows"] > 0

    # a benchmark run on the held-out rows takes what is there, and asks for the blind row alone
    (run_dir / "eval" / "a.jsonl").write_text('{"id": "of an older format"}\n')
    run_benchmarks(recipe, BenchmarkConfig(bench="heldout", config="eval.yaml", model=str(run_dir / "merge")))
    seen, blind = sorted((run_dir / "benchmarks" / "heldout").iterdir(), key=lambda folder: folder.suffix == ".blind")
    assert not (seen / "verdicts.jsonl").exists() and (blind / "verdicts.jsonl").exists()
    figures = json.loads((seen / "scores.json").read_text())["honest"]
    assert figures["coverage"] == 1
    for name, metric in report["models"]["merged"].items():
        assert figures[name] == metric["mean"] and figures["intervals"][name] == [metric["low"], metric["high"]]

    shutil.rmtree(run_dir / "grpo" / "weights")
    assert recipe.models()["grpo"] == (str(run_dir / "sft" / "merged"), run_dir / "grpo" / "adapter")
    with pytest.raises(UserError, match="adapter: no such file or folder"):
        write_heldout(recipe, overwrite=False)


def test_a_reward_of_ones_own_is_in_the_report(run_dir, plan, capsys):
    from evaluation.report import make_report
    from pipeline.fingerprint import mark_finished

    (run_dir / "eval").mkdir()
    mark_finished(run_dir / "eval", {})
    header = make_header("heldout", plan.rows, spec=plan.spec.model_dump(mode="json"))
    recipe = make_recipe(
        run_dir, reward_funcs=["format", "tests.evaluation.test_metrics:brevity"], reward_weights=[1.0, 3.0]
    )
    for name in recipe.models():
        right = answer_right(plan)
        write_run(run_dir / "eval" / f"{name}.jsonl", header, plan, right if name != "base" else lambda request: "no")
    figures = make_report(recipe)["models"]
    assert figures["base"]["brevity"]["mean"] == 1 and figures["sft"]["brevity"]["mean"] == 0
    sc, pq = 0.25, 1.0  # what a right verdict gets: brevity has 3 of 4 shares of `sc`, and does not apply to `pq`
    assert figures["sft"]["reward"]["mean"] == pytest.approx((sc + pq) / 2)
    printed = capsys.readouterr().out
    assert "brevity" in printed and "empty_region_recall" in printed
    assert "brevity" in (run_dir / "report" / "report.html").read_text()


def test_a_reward_of_ones_own_is_in_a_benchmark_run(plan, tmp_path):
    rewards = {"entries": ["format", "tests.evaluation.test_metrics:brevity"], "weights": [1.0, 3.0]}
    header = make_header("heldout", plan.rows, spec=plan.spec.model_dump(mode="json"), rewards=rewards)
    figures = heldout_figures(write_run(tmp_path / "verdicts.jsonl", header, plan, answer_right(plan)), 20)["honest"]
    assert figures["brevity"] == 0 and figures["intervals"]["brevity"] == [0, 0]
    assert figures["reward"] == pytest.approx((0.25 + 1) / 2)


@pytest.mark.parametrize("own", ["gone_rewards:brevity", "tests.evaluation.test_heldout_figures:reward"])
def test_a_reward_that_cannot_be_loaded_here_is_left_out(plan, tmp_path, capsys, own):
    file = tmp_path / "verdicts.jsonl"

    def reward_of(entries, weights):
        rewards = {"entries": entries, "weights": weights}
        header = make_header("heldout", plan.rows, spec=plan.spec.model_dump(mode="json"), rewards=rewards)
        write_run(file, header, plan, answer_right(plan))
        return file_figures(ScoreConfig(bench="heldout", file=file, bootstrap_samples=20))["honest"]["reward"]

    assert reward_of([own, "format"], [3.0, 1.0]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out of the figures")]
    assert own.split(":")[own.endswith("reward")] in line
    assert reward_of([own], [1.0]) is None


def reward(completions, **kwargs):
    return [0.0] * len(completions)


def test_a_killed_eval_is_not_taken_for_a_benchmark_run_on_the_held_out_rows(run_dir, plan):
    from evaluation.benchmarks.run import make_header as header_of
    from evaluation.benchmarks.run import run_one
    from pipeline.fingerprint import mark_finished, mark_started

    recipe = make_recipe(run_dir)
    config = BenchmarkConfig(bench="heldout", config="eval.yaml", model=str(run_dir / "merge"))
    mark_started(run_dir / "eval", {})
    header = header_of(recipe, config, "heldout", plan, blind=False) | {"adapter": None}
    file, right = run_dir / "eval" / "merged.jsonl", answer_right(plan)
    first = plan.names(1)[0]
    write_run(file, header, plan, lambda request: right(request) if request.key == first[0] else None)
    received = []

    def backend(requests):
        for request in requests:
            received.append(request.key)
            yield request, Response(right(request), False)

    assert run_one(recipe, config, "heldout", backend, plan.spec)
    assert len(received) == len(plan.names(1))
    # the same file of a finished stage is taken
    write_run(file, header, plan, right)
    mark_finished(run_dir / "eval", {})
    assert run_one(recipe, config, "heldout", backend, plan.spec) and len(received) == len(plan.names(1))
