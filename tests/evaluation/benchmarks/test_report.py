"""The report over result files: our rows beside the published ones, what is partial, wrong rankings with boxes."""

import base64
import io
import json

from PIL import Image

from evaluation.benchmarks.gallery import wrong_rankings
from evaluation.benchmarks.plan import plan_samples
from evaluation.benchmarks.read import read_samples
from evaluation.benchmarks.report import blind_figures, markdown, write_report
from evaluation.benchmarks.scores import both_rules
from evaluation.recipe import EvalRecipe
from spatial_edit_reward.draw import PREDICTED_COLOR
from spatial_edit_reward.files import write_json
from tests.evaluation.benchmarks.runs import SPEC, head, saved, verdict


def test_models_stand_beside_the_published_rows(drawn, tmp_path):
    plan = plan_samples(read_samples("merbench", str(drawn / "merbench")), SPEC, 0)
    told = {"good": {}, "half": {}}
    for row in plan.rows:
        for one in row["candidates"]:
            told["good"] |= {one["sc"]: 25.0 - 5 * one["rank"]}
            told["half"] |= {one["sc"]: 5.0 * one["rank"]}
    for name, scores in told.items():
        folder = tmp_path / "benchmarks" / "merbench" / name

        def said(question, scores=scores, name=name):
            # the second model is given verdicts on candidates of rank 0 to 2 alone
            score = scores.get(question.key, 25.0)
            return None if name == "half" and score == 15 else verdict(question.task, [score] * 2)

        run = saved(folder / "verdicts.jsonl", head("merbench", plan.rows, model=name), plan, said)
        about = {key: run.head[key] for key in ("bench", "model", "backend", "blind", "samples", "temperature")}
        write_json(folder / "scores.json", about | both_rules(run, "weighted", 50))
        write_json(folder / "wrong.json", wrong_rankings(run, plan, "weighted", 3))
    recipe = EvalRecipe(run_dir=tmp_path, base="b", rewards_from=tmp_path, batch_size=8, bootstrap_samples=50)
    write_report(recipe)
    text = (tmp_path / "benchmarks" / "report.md").read_text()
    assert "| merbench | good | 1.000 | 1.000 [1.000, 1.000] | 1.000 [1.000, 1.000] |" in text
    assert "| merbench | half (PARTIAL, 66.7%) |" in text
    assert "| merbench | SpatialReward-8B (published) | 0.483 |" in text
    assert (
        "| merbench | any scorer without pictures (all tied) | – | 0.000 [0.000, 0.000] | 0.500 [0.500, 0.500] |"
        in text
    )
    assert "| merbench | chance | – | 0.500 | 0.500 |" in text
    assert "| merbench | good | candidates: 4 | 5 | 1.000 |" in text
    assert "| merbench | SpatialReward-8B (published) | candidates: 4 | 200 | – | – | 0.215 |" in text
    found = json.loads((tmp_path / "benchmarks" / "report.json").read_text())
    assert [one["model"] for one in found["runs"]["merbench"]] == ["good", "half"]
    page = (tmp_path / "benchmarks" / "report.html").read_text()
    assert page.count("0% of pairs right") == 3 and "Wrong rankings of half" in page


def test_a_wrong_ranking_shows_its_candidates_best_first_with_boxes(drawn, tmp_path):
    plan = plan_samples(read_samples("mmrb2", str(drawn / "mmrb2"))[:2], SPEC, 0)
    box = [{"id": 0, "label": "cup", "bbox_2d": [100, 100, 900, 900]}]
    boxed = json.dumps({"edit_region": box, "reasoning": "<|bbox_0|> it is there now.", "score": [9, 9]})
    told = {one["sc"]: one["rank"] for row in plan.rows for one in row["candidates"]}

    def said(question):
        return boxed if told.get(question.key) else verdict(question.task, [1, 1])

    run = saved(tmp_path / "verdicts.jsonl", head("mmrb2", plan.rows), plan, said)
    cards = wrong_rankings(run, plan, "weighted", 5)
    assert len(cards) == 2
    for card, sample in zip(
        sorted(cards, key=lambda card: card["title"]), sorted(plan.rows, key=lambda row: row["id"]), strict=True
    ):
        assert [one["rank"] for one in card["candidates"]] == [1, 2] and len(card["sources"]) == sample["sources"]
        assert float(card["candidates"][0]["score"]) < float(card["candidates"][1]["score"])
        assert card["candidates"][1]["text"] == boxed
    shown = Image.open(io.BytesIO(base64.b64decode(cards[0]["candidates"][1]["image"].split(",")[1])))
    colours = {f"#{r:02x}{g:02x}{b:02x}" for _, (r, g, b) in shown.getcolors(10**6)}
    assert PREDICTED_COLOR in colours


def test_a_blind_scorer_is_chance_and_tables_survive_bars():
    rows = [{"id": "a", "category": "x", "dimension": "overall", "sources": 1, "group": "g"}]
    rows[0]["candidates"] = [{"rank": 1}, {"rank": 0}]
    found = blind_figures(rows, 20, 0)
    assert found["pair_accuracy"] == 0 and found["pair_accuracy_half"] == 0.5 and found["tie_rate"] == 1
    assert markdown([["a", "b"], ["x|y", "1"]]) == "| a | b |\n|---|---|\n| x\\|y | 1 |"
