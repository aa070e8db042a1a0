"""MMRB2's edit task: its rows, its official rule by hand and beside a statement of its own, the official result file."""

import json
import math
import random
import shutil
from collections import Counter

import pytest

from evaluation.benchmarks.mmrb2 import official_score, read_official_results
from evaluation.benchmarks.score import file_figures
from evaluation.benchmarks.strict import ScoredSample, strict_figures
from evaluation.options import ScoreConfig


def preferred(a, b, chosen, source, images):
    return ScoredSample("x", (0, 1) if chosen == "A" else (1, 0), (a, b), source, sources=images)


def test_rows_have_one_or_more_sources_and_placeholders_go(drawn):
    from evaluation.benchmarks.samples import read_samples

    samples = read_samples("mmrb2", str(drawn / "mmrb2"))
    assert {len(sample.sources()) for sample in samples} == {1, 2}
    assert all(len(sample.sources()) == sample.source_count for sample in samples)
    assert not any("<image" in sample.instruction or "image 1" in sample.instruction for sample in samples)
    assert {sample.extra for sample in samples} <= {"A", "B"}
    for sample in samples:
        assert sample.candidates["AB".index(sample.extra)].rank == 0


@pytest.mark.parametrize(
    ("prompt", "instruction"),
    [
        ("<image_1><image_2>\nPut the cup there.", "Put the cup there."),
        ("Put the cup of <image_2> into <image_1>, left.", "Put the cup of image 2 into image 1, left."),
        ("<image_1> Make <image_2> match. <image_3>", "Make image 2 match."),
    ],
)
def test_a_placeholder_inside_a_prompt_becomes_words(tmp_path, prompt, instruction):
    from evaluation.benchmarks.samples import read_samples

    row = {"pair_id": 1, "prompt_text": prompt, "prompt_images": ["x.png"], "chosen": "a"}
    row |= {"response_a_images": ["x.png"], "response_b_images": ["x.png"]}
    (tmp_path / "edit.jsonl").write_text(json.dumps(row))
    [sample] = read_samples("mmrb2", str(tmp_path))
    assert sample.instruction == instruction


def test_the_hub_has_it_as_a_config_of_the_converted_dataset(drawn, tmp_path, monkeypatch):
    """A folder of the dataset's name, with the configs of its card, stands for the Hub."""
    from evaluation.benchmarks.samples import read_samples

    folder = tmp_path / "rl-research" / "multimodal-rewardbench-2"
    shutil.copytree(drawn / "mmrb2", folder)
    configs = [{"config_name": "edit", "data_files": [{"split": "test", "path": "edit/test-*"}]}]
    (folder / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    monkeypatch.chdir(tmp_path)
    assert len(read_samples("mmrb2", None)) == 5


def test_ties_are_wrong_and_missing_pairs_skipped():
    figures = official_score(
        [
            preferred(2, 1, "A", "one", 1),
            preferred(2, 1, "B", "one", 1),
            preferred(1, 1, "A", "two", 2),
            preferred(1, 2, "B", "two", 1),
            preferred(None, 2, "B", "two", 1),
        ]
    )
    assert figures == {
        "overall_accuracy": 0.5,
        "total_pairs": 4,
        "correct_predictions": 2,
        "missing_pairs": 1,
        "per_source_accuracy": {"one": 0.5, "two": 0.5},
        "per_image_count_accuracy": {"1": 2 / 3, "2": 0.0},
    }


def test_random_files_by_a_statement_of_the_rule():
    """The predicted letter against the chosen one, counted by group; NaN decides for no letter."""
    rng = random.Random(3)
    levels = [None, math.nan, 1.0, 2.0, 3.0]
    rows = [
        (rng.choice(levels), rng.choice(levels), rng.choice("AB"), rng.choice(["x", "y"]), rng.choice([1, 2, 3]))
        for _ in range(300)
    ]
    total, right = Counter(), Counter()
    for a, b, chosen, source, images in rows:
        if a is not None and b is not None:
            predicted = "A" if a > b else "B" if a < b else "neither"
            for group in ("all", source, images):
                total[group] += 1
                right[group] += predicted == chosen
    figures = official_score([preferred(*row) for row in rows])
    assert (figures["total_pairs"], figures["correct_predictions"]) == (total["all"], right["all"])
    assert figures["missing_pairs"] == len(rows) - total["all"]
    assert figures["overall_accuracy"] == right["all"] / total["all"]
    assert figures["per_source_accuracy"] == {name: right[name] / total[name] for name in ("x", "y")}
    assert figures["per_image_count_accuracy"] == {str(n): right[n] / total[n] for n in (1, 2, 3)}


def test_the_official_file_by_the_benchmarks_rows(tmp_path):
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
    config = {"file": tmp_path / "results.json", "benchmark_rows": tmp_path / "rows.jsonl", "bootstrap_samples": 20}
    figures = file_figures(ScoreConfig(bench="mmrb2", **config))
    assert figures["published"]["overall_accuracy"] == 1 and figures["published"]["missing_pairs"] == 1
    assert figures["published"]["per_image_count_accuracy"] == {"2": 1.0}
    assert figures["honest"]["pair_accuracy"] == 0.5 and figures["honest"]["by_sources"]["2"]["pair_accuracy"] == 1


def test_nan_is_a_wrong_pair_of_the_official_rule_and_a_missing_one_of_the_strict(tmp_path):
    results = json.loads('{"p_A": {"scores": {"overall": NaN}}, "p_B": {"scores": {"overall": 2}}}')
    samples = read_official_results(results, [{"pair_id": "p", "chosen": "B"}], tmp_path)
    official = official_score(samples)
    assert (official["total_pairs"], official["correct_predictions"], official["missing_pairs"]) == (1, 0, 0)
    strict = strict_figures(samples, 20, 0)
    assert strict["coverage"] == 0 and strict["pair_accuracy_half"] == 0
