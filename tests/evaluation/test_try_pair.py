"""One edit through resize, prompt, model, parser and page; what cannot be read has a note, and no score."""

import json
import re
import shutil

import pytest
from PIL import Image

from evaluation.__main__ import main
from evaluation.try_pair import overall, read_answer, try_pair
from spatial_edit_reward import Spec, load_spec, save_spec
from spatial_edit_reward.inference.request import Response
from spatial_edit_reward.pages import drawable_boxes
from tests.conftest import BASE
from tests.data.broken_rows import PQ, SC


def test_an_answer_is_read_as_far_as_it_goes(small_data):
    spec = load_spec(small_data)
    good = read_answer("sc", Response(json.dumps(SC), False), spec)
    assert good.scores == (20, 15) and good.notes == [] and good.named_scores == {"success": "20", "over-editing": "15"}
    fenced = read_answer("pq", Response(f"```json\n{json.dumps(PQ)}\n```", False), spec)
    assert fenced.scores == (18, 22) and "repair" in fenced.notes[0]
    cut = read_answer("sc", Response(json.dumps(SC)[:-12], True), spec)
    assert cut.scores is None and cut.verdict is None and cut.notes[0] == "cut off at the token limit"
    assert cut.named_scores == {"success": "\N{EN DASH}", "over-editing": "\N{EN DASH}"}
    high = read_answer("pq", Response(json.dumps({**PQ, "score": [18, 99]}), False), spec)
    assert high.scores is None and "two_scores_in_range" in high.notes[0]
    assert overall([good, cut], spec) is None
    assert 0 < overall([good, fenced], spec) < 1


def test_only_boxes_that_can_be_drawn():
    boxes = [[0, 0, 10, 10], [0, 0, 10], [10, 0, 0, 10], [-5, 0, 2000, 10], "x", None, [0, 0, None, 1]]
    regions = [*({"bbox_2d": box} for box in boxes), "no region", {}]
    assert drawable_boxes(regions) == [(0, (0, 0, 10, 10)), (3, (0, 0, 1000, 10))]
    assert drawable_boxes(None) == []


@pytest.mark.slow
def test_a_pair_becomes_a_page(small_data, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(BASE, model)
    shutil.copy(small_data / "verdict.json", model)
    for name, color in (("before.png", "teal"), ("after.jpg", "orange")):
        Image.new("RGB", (301, 199), color).save(tmp_path / name)
    instruction = 'Make <it> "orange" & don\'t stop.'
    try_pair(str(model), tmp_path / "before.png", tmp_path / "after.jpg", instruction, tmp_path / "try.html")
    page, printed = (tmp_path / "try.html").read_text(), capsys.readouterr().out
    assert page.count("data:image/png;base64,") == 2 and not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "64 x 48 pixels" in page and "Make &lt;it&gt;" in page and "<it>" not in page
    assert "sc: success" in printed and "pq: naturalness" in printed and "try.html" in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "gone.png"}, "SOURCE: gone.png: no such image"),
        (
            {"edited": "{folder}/thin.png", "model": "{folder}"},
            "thin.png: .*1 x 3000 pixels: one side is over 200 times the other",
        ),
        ({"edited": "{folder}/page.jpg", "model": "{folder}"}, "page.jpg: .*a web page"),
        ({"instruction": " "}, "INSTRUCTION="),
        ({"model": "gone"}, "no verdict.json"),
    ],
)
def test_what_a_user_can_get_wrong(tmp_path, changes, message, monkeypatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    Image.new("RGB", (1, 3000)).save(tmp_path / "thin.png")
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    save_spec(Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=320), tmp_path)
    changes = {name: value.format(folder=tmp_path) for name, value in changes.items()}
    given = {"source": tmp_path / "a.png", "edited": tmp_path / "a.png", "instruction": "X.", "model": BASE}
    options = [str(text) for name, value in {**given, **changes}.items() for text in (f"--{name}", value)]
    monkeypatch.setattr("sys.argv", ["evaluation", "try", *options, "--page", str(tmp_path / "try.html")])
    with pytest.raises(SystemExit, match=message):
        main()
    assert not (tmp_path / "try.html").exists()
