"""Attention: weights that sum to what they must, measures by hand, places in the picture, and the page."""

import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from data.rows import load_rows
from data.synthetic.generate import group_rows
from evaluation import diagnose as module
from evaluation.attention_maps import attention_weights, heat, looks, measure
from evaluation.diagnose import PARTS, chosen, diagnose, parts_of
from spatial_edit_reward import Spec, load_spec, render
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.draw import overlay_heatmap
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.generation import generate_batch
from spatial_edit_reward.inference.model import load_model, load_processor
from tests.conftest import BASE
from tests.spatial_edit_reward.inference.forced import writing

SPEC = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=12)
VERDICT = (
    '{"edit_region": [{"id": 0, "label": "cup", "bbox_2d": [100, 200, 300, 400]}], '
    '"reasoning": "<|bbox_0|> the cup is gone. <|global|> 1 of 1 done.", "score": [20, 5]}'
)


@pytest.fixture(scope="module")
def tiny():
    return load_model(str(BASE), None, "eager"), load_processor(str(BASE), SPEC)


@pytest.fixture(scope="module")
def batch(tiny):
    model, processor = tiny
    row = next(row for row in group_rows(seed=5, number=0, image_size=64) if row["task"] == "sc")
    images = [row["images"][0].resize((64, 32)), row["images"][1]]
    return generate_batch(model, processor, [prompt_messages("sc", row["instruction"], SPEC)], [images], 12)


def test_the_weights_of_a_token_are_those_of_the_step_that_chose_it(tiny, batch):
    model, _ = tiny
    count = batch.responses[0].completion_tokens
    weights = attention_weights(model, batch.inputs, batch.tokens[0, :count])
    prompt = batch.inputs["input_ids"].shape[1]
    assert weights.shape == (count, prompt + count - 1)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(-1), torch.ones(count), atol=1e-5, rtol=0)
    assert all(float(weights[token, prompt + token :].sum()) == 0 for token in range(count))
    steps = model.generate(
        **batch.inputs, do_sample=False, max_new_tokens=count, output_attentions=True, return_dict_in_generate=True
    )
    assert torch.equal(steps.sequences[:, prompt:], batch.tokens[:, :count])
    for token, layers in enumerate(steps.attentions):
        mean = torch.stack([layer[0, :, -1] for layer in layers]).mean((0, 1))
        torch.testing.assert_close(weights[token, : prompt + token], mean, atol=1e-5, rtol=0)


def test_a_real_look_keeps_its_bounds(tiny, batch):
    model, processor = tiny
    pair = looks(model, processor, batch)
    assert [(look.height, look.width) for look in pair] == [(2, 4), (4, 4)]
    weights = attention_weights(model, batch.inputs, batch.tokens[0, : batch.responses[0].completion_tokens])
    at = (batch.inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    torch.testing.assert_close(torch.cat([look.weights for look in pair], 1), weights[:, at])
    for look in pair:
        found = measure(look.weights)
        count = look.height * look.width
        assert bool(((found.mass > 0) & (found.mass < 1)).all())
        assert bool(((found.entropy >= 0) & (found.entropy <= math.log(count) + 1e-6)).all())
        assert bool(((found.top >= math.ceil(count / 10) / count - 1e-6) & (found.top <= 1)).all())
        assert heat(look, [0, 2]).flatten().tolist() == pytest.approx(look.weights[[0, 2]].mean(0).tolist())
    assert float(sum(measure(look.weights).mass for look in pair).max()) < 1


def test_measures_by_hand():
    found = measure(torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.0, 0.2, 0.0, 0.0], [0.3, 0.0, 0.0, 0.1], [0.0] * 4]))
    assert found.mass.tolist() == pytest.approx([0.4, 0.2, 0.4, 0.0])
    assert found.entropy.tolist()[:3] == pytest.approx(
        [math.log(4), 0.0, -0.75 * math.log(0.75) - 0.25 * math.log(0.25)]
    )
    assert found.top.tolist()[:3] == pytest.approx([0.25, 1.0, 0.75])
    assert math.isnan(found.entropy[3]) and math.isnan(found.top[3])
    # a tenth of 11 tokens, rounded up
    assert float(measure(torch.ones(1, 11)).top) == pytest.approx(2 / 11)


def test_picture_tokens_go_row_by_row(tiny):
    """What is changed in one cell of a picture changes that cell's token most, whichever cell it is."""
    model, processor = tiny

    def features(image):
        inputs = processor.image_processor(images=[image], return_tensors="pt")
        with torch.inference_mode():
            out = model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        return torch.cat(list(out.pooler_output))

    plain = Image.new("RGB", (64, 48), "grey")
    for row, column in ((0, 3), (2, 0), (1, 2)):
        changed = plain.copy()
        changed.paste("red", (16 * column, 16 * row, 16 * column + 16, 16 * row + 16))
        apart = (features(changed) - features(plain)).norm(dim=-1)
        assert int(apart.argmax()) == 4 * row + column


def test_every_token_belongs_to_one_part(tiny_processor):
    tokens = [*tiny_processor.tokenizer.encode(VERDICT), tiny_processor.tokenizer.eos_token_id]
    pieces = tiny_processor.batch_decode([[token] for token in tokens], skip_special_tokens=True)
    parts = parts_of(pieces)
    assert list(parts) == list(PARTS)
    assert parts["all"] == list(range(len(tokens) - 1)) == [place for part in PARTS[:3] for place in parts[part]]
    texts = ["".join(pieces[place] for place in parts[part]) for part in PARTS]
    assert texts[0].startswith('{"edit_region"') and texts[0].endswith("],")
    assert "cup is gone" in texts[1] and texts[2].strip() == '"score": [20, 5]}'


def test_rows_are_evenly_spread(small_data):
    rows = load_rows(small_data / "heldout.parquet", load_spec(small_data))
    places = chosen(rows, 4)
    assert len(places) == 4 and {rows[place]["task"] for place in places} == {"sc"} and max(places) > len(rows) // 2
    assert chosen(rows, 1000) == [place for place, task in enumerate(rows["task"]) if task == "sc"]


def test_heat_is_drawn_where_it_is():
    values = np.zeros((2, 4))
    values[1, 2] = 1.0
    shown = np.asarray(overlay_heatmap(Image.new("RGB", (64, 32), "black"), values, 128)).astype(int).sum(-1)
    assert shown.shape == (64, 128)
    bright = np.argwhere(shown == shown.max())
    assert (bright.min(0).tolist(), bright.max(0).tolist()) == ([32, 64], [63, 95])


def test_the_page_the_table_and_the_figures(small_data, tmp_path, monkeypatch, capsys):
    spec = load_spec(small_data).model_copy(update={"max_new_tokens": 200})
    rows = load_rows(small_data / "heldout.parquet", spec)
    tidy = render("sc", rows[chosen(rows, 2)[1]]["reference"])
    texts = iter([VERDICT, "nothing to read", tidy])
    load = load_model

    def load_forced(*arguments):
        """The real model; each of its completions is the next of `texts`."""
        model = load(*arguments)
        real = module.generate_batch

        def forced(model, processor, *rest):
            with writing(model, processor, [next(texts)]):
                return real(model, processor, *rest)

        monkeypatch.setattr(module, "generate_batch", forced)
        return model

    monkeypatch.setattr(module, "load_model", load_forced)
    report = diagnose(str(BASE), spec, rows, 3, tmp_path / "diagnose")
    assert len(report["rows"]) == 2 and len(report["left_out"]) == 1
    assert json.loads((tmp_path / "diagnose" / "diagnose.json").read_text()) == report
    for part in PARTS:
        for name in ("mass_source", "entropy_edited", "entropy_difference", "top_edited"):
            assert report["means"][part][name] == pytest.approx(
                sum(one["parts"][part][name] for one in report["rows"]) / 2
            )
    counts = report["rows"][0]["parts"]
    assert counts["all"]["tokens"] == sum(counts[part]["tokens"] for part in PARTS[:3])
    page, printed = (tmp_path / "diagnose" / "diagnose.html").read_text(), capsys.readouterr().out
    assert page.count("data:image/png;base64,") == 2 * 2 * len(PARTS)
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "not to be held against the paper" in " ".join(page.split()) and "1 unparsed left out" in printed
    assert "edit_region" in printed and "diagnose.html" in printed


def test_a_model_that_writes_no_verdict_is_said(small_data, tmp_path):
    spec = load_spec(small_data).model_copy(update={"max_new_tokens": 4})
    rows = load_rows(small_data / "heldout.parquet", spec)
    with pytest.raises(UserError, match="no readable verdict on 2 rows"):
        diagnose(str(BASE), spec, rows, 2, tmp_path / "diagnose")
    assert not (tmp_path / "diagnose").exists()
