"""The report over files of responses: our rows beside the papers' ones, what is partial, wrong rankings with boxes."""

import base64
import io
import json

from PIL import Image

from evaluation.benchmarks.failures import wrong_rankings
from evaluation.benchmarks.figures import benchmark_figures, blind_samples
from evaluation.benchmarks.report import markdown, write_report
from evaluation.benchmarks.strict import strict_figures
from evaluation.recipe import EvalRecipe
from spatial_edit_reward.draw import PREDICTED_COLOR
from spatial_edit_reward.files import write_json
from tests.evaluation.benchmarks.runs import make_header, read_plan, verdict, write_run


def test_models_stand_beside_the_rows_of_the_papers(drawn, tmp_path):
    plan = read_plan("merbench", drawn)
    scores = {"good": {}, "half": {}}
    for row in plan.rows:
        for one in row["candidates"]:
            scores["good"] |= {one["sc"]: 25.0 - 5 * one["rank"]}
            scores["half"] |= {one["sc"]: 5.0 * one["rank"]}
    for name, by_key in scores.items():
        folder = tmp_path / "benchmarks" / "merbench" / name

        def answer(request, by_key=by_key, name=name):
            # the second model is given verdicts on candidates of rank 0 to 2 alone
            score = by_key.get(request.key, 25.0)
            return None if name == "half" and score == 15 else verdict(request.task, [score] * 2)

        run = write_run(folder / "verdicts.jsonl", make_header("merbench", plan.rows, model=name), plan, answer)
        about = {key: run.header[key] for key in ("bench", "model", "backend", "blind", "samples", "temperature")}
        write_json(folder / "scores.json", about | benchmark_figures(run, "weighted", 50))
        write_json(folder / "wrong.json", wrong_rankings(run, plan, "weighted", 3))
    recipe = EvalRecipe(run_dir=tmp_path, base="b", rewards_from=tmp_path, batch_size=8, bootstrap_samples=50)
    write_report(recipe)
    text = (tmp_path / "benchmarks" / "report.md").read_text()
    assert "| merbench | good | 1.000 | 1.000 [1.000, 1.000] | 1.000 [1.000, 1.000] |" in text
    assert "| merbench | half (PARTIAL, 66.7%) |" in text
    assert "| merbench | SpatialReward-8B (published) | 0.483 |" in text
    blind = "| merbench | any scorer without images (all tied) | \N{EN DASH} | 0.000 [0.000, 0.000] | 0.500 [0.500, 0.500] |"
    assert blind in text
    assert "| merbench | chance | \N{EN DASH} | 0.500 | 0.500 |" in text
    assert "| merbench | good | candidates: 4 | 5 | 1.000 |" in text
    four = "| merbench | SpatialReward-8B (published) | candidates: 4 | 200 | \N{EN DASH} | \N{EN DASH} | 0.215 |"
    assert four in text
    report = json.loads((tmp_path / "benchmarks" / "report.json").read_text())
    assert [one["model"] for one in report["runs"]["merbench"]] == ["good", "half"]
    assert report["published_rows"]["EditReward"] == {"merbench": 0.448, "editreward-bench": 0.792, "mmrb2": 0.657}
    page = (tmp_path / "benchmarks" / "report.html").read_text()
    assert page.count("0% of pairs right") == 3 and "Wrong rankings of half" in page


def test_a_wrong_ranking_shows_its_candidates_best_first_with_boxes(drawn, tmp_path):
    plan = read_plan("mmrb2", drawn, 2)
    box = [{"id": 0, "label": "cup", "bbox_2d": [100, 100, 900, 900]}]
    boxed = json.dumps({"edit_region": box, "reasoning": "<|bbox_0|> it is there now.", "score": [9, 9]})
    ranks = {one["sc"]: one["rank"] for row in plan.rows for one in row["candidates"]}

    def answer(request):
        return boxed if ranks.get(request.key) else verdict(request.task, [1, 1])

    run = write_run(tmp_path / "verdicts.jsonl", make_header("mmrb2", plan.rows), plan, answer)
    cards = wrong_rankings(run, plan, "weighted", 5)
    assert len(cards) == 2
    for card, sample in zip(
        sorted(cards, key=lambda card: card["title"]), sorted(plan.rows, key=lambda row: row["id"]), strict=True
    ):
        assert [one["rank"] for one in card["candidates"]] == [1, 2] and len(card["sources"]) == sample["sources"]
        assert float(card["candidates"][0]["score"]) < float(card["candidates"][1]["score"])
        assert card["candidates"][1]["text"] == boxed
    shown = Image.open(io.BytesIO(base64.b64decode(cards[0]["candidates"][1]["image"].split(",")[1])))
    colors = {f"#{r:02x}{g:02x}{b:02x}" for _, (r, g, b) in shown.getcolors(10**6)}
    assert PREDICTED_COLOR in colors


def test_a_blind_scorer_is_chance_and_tables_survive_bars():
    rows = [{"id": "a", "category": "x", "dimension": "overall", "sources": 1, "group": "g"}]
    rows[0]["candidates"] = [{"rank": 1}, {"rank": 0}]
    figures = strict_figures(blind_samples(rows), 20, 0)
    assert figures["pair_accuracy"] == 0 and figures["pair_accuracy_half"] == 0.5 and figures["tie_rate"] == 1
    assert markdown([["a", "b"], ["x|y", "1"]]) == "| a | b |\n|---|---|\n| x\\|y | 1 |"
