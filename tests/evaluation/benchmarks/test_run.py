"""`python -m evaluation bench` on the tiny base: asked once, resumed, scored, reported, partial."""

import json
import shutil
from types import SimpleNamespace

import pytest

from evaluation.__main__ import main
from evaluation.benchmarks.score import PARTIAL_STATUS
from tests.conftest import BASE, run_stage, write_recipe
from tests.endpoint import chat


@pytest.fixture
def bench(small_data, tmp_path, monkeypatch, capsys):
    """Runs the command in this process, on a run of the tiny recipe; gives its exit status and stderr."""
    shutil.copytree(small_data, tmp_path / "run" / "data")
    recipe = write_recipe(tmp_path / "eval.yaml", "eval", run_dir=str(tmp_path / "run"), bootstrap_samples=50)
    always = ["bench", "mmrb2", "--config", recipe, "--spec", small_data]

    def run(*options, process=False):
        if process:
            return run_stage("evaluation", *always, *options)
        monkeypatch.setattr("sys.argv", ["evaluation", *map(str, [*always, *options])])
        try:
            main()
        except SystemExit as error:
            text = error.code if isinstance(error.code, str) else ""
            return SimpleNamespace(returncode=1 if text else error.code, stderr=capsys.readouterr().err + text)
        return SimpleNamespace(returncode=0, stderr=capsys.readouterr().err)

    return run


@pytest.mark.slow
def test_a_benchmark_from_images_to_the_report(bench, drawn, tmp_path):
    run, options = tmp_path / "run", ["--model", BASE, "--batch_size", 8, "--data"]
    done = bench(*options, drawn, process=True)
    assert done.returncode == 0, done.stderr[-3000:]
    [folder] = (run / "benchmarks" / "mmrb2").iterdir()
    assert folder.name.endswith("recipes-tiny-base")
    scores = json.loads((folder / "scores.json").read_text())
    # a base that writes no verdicts: every response there, none readable, every pair wrong
    assert scores["honest"]["coverage"] == 1 and scores["honest"]["unparsed_rate"] == 1
    assert scores["honest"]["pair_accuracy"] == 0 and scores["published"]["total_pairs"] == 5
    report = (run / "benchmarks" / "report.md").read_text()
    assert "SpatialReward-8B (published) | 0.661" in report and "| chance | \N{EN DASH} | 0.500" in report
    page = (run / "benchmarks" / "report.html").read_text()
    assert page.count("true rank 1") == 5 and "Wrong rankings" in page
    before = (folder / "verdicts.jsonl").read_bytes()
    assert bench(*options, drawn).returncode == 0
    assert (folder / "verdicts.jsonl").read_bytes() == before

    from datasets import Dataset, Image, List

    rows = Dataset.from_parquet(str(drawn / "mmrb2" / "edit" / "test-00000-of-00001.parquet"))
    rows = rows.cast_column("response_b_images", List(Image(decode=False)))
    broken = tmp_path / "broken"
    without_one = rows.map(
        lambda row, i: {"response_b_images": [] if i == 0 else row["response_b_images"]}, with_indices=True
    )
    broken.mkdir()
    without_one.to_parquet(str(broken / "edit.parquet"))
    done = bench(*options, broken)
    assert done.returncode == 1 and "something else" in done.stderr and "OVERWRITE=1" in done.stderr
    done = bench(*options, broken, "--overwrite")
    assert done.returncode == PARTIAL_STATUS and not (folder / "scores.json").exists()
    first = rows[0]["pair_id"]
    assert f"{first} {first}_B: no image there" in done.stderr and "no result below full coverage" in done.stderr
    done = bench(*options, broken, "--partial")
    assert done.returncode == PARTIAL_STATUS
    assert "PARTIAL, 80.0%" in (run / "benchmarks" / "report.md").read_text()


@pytest.mark.slow
def test_an_endpoint_is_asked_again_for_what_it_failed_to_answer_and_the_cost_is_printed(
    bench, drawn, endpoint, monkeypatch
):
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    options = ["--model", "judge-1", "--backend", "openai", "--data", drawn, "--batch_size", 4]
    options += ["--prices", 2, 8, "--extra_body", '{"max_completion_tokens": 4096}']
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}

    def answer(number, body):
        if number % 5 == 0 and failing:
            return 400, {}, b"<html>no</html>"
        status, headers, content = chat('{"reasoning": "Plain.", "score": [20, 15]}')
        return status, headers, json.dumps({**json.loads(content), "usage": usage}).encode()

    failing, endpoint.answer = True, answer
    done = bench(*options, process=True)
    assert done.returncode == PARTIAL_STATUS, done.stderr[-3000:]
    first = len(endpoint.received)
    assert all(body["max_completion_tokens"] == 4096 for body in endpoint.received)
    answered = first - first // 5
    assert f"${answered * (100 * 2 + 10 * 8) / 1e6:.4f}" in done.stderr
    failing = False
    done = bench(*options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(endpoint.received) == first + first // 5
    done = bench(*options, "--extra_body", "{")
    assert done.returncode == 1 and "--extra_body: Invalid JSON" in done.stderr and "Traceback" not in done.stderr


def test_the_folder_names_the_model_and_how_it_is_asked(tmp_path):
    from evaluation.benchmarks.run import output_folder
    from evaluation.options import BenchmarkConfig
    from evaluation.recipe import EvalRecipe

    recipe = EvalRecipe(run_dir=tmp_path, base="b", rewards_from=tmp_path, batch_size=8)
    config = BenchmarkConfig(bench="merbench", config=tmp_path, model="org/Name-8B", samples=4)
    assert output_folder(recipe, "merbench", config) == tmp_path / "benchmarks" / "merbench" / "org-Name-8B.avg4"
    assert output_folder(recipe, "heldout", config, blind=True).name == "org-Name-8B.avg4.blind"
