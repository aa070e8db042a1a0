"""Attention: weights that sum to what they must, measures by hand, positions in the image, and the page."""

import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from data.rows import load_rows
from data.synthetic.generate import group_rows
from spatial_edit_reward import Spec, load_spec, render
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.draw import overlay_heatmap
from spatial_edit_reward.errors import UserError
from tests.conftest import BASE

SPEC = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=12)
VERDICT = (
    '{"edit_region": [{"id": 0, "label": "cup", "bbox_2d": [100, 200, 300, 400]}], '
    '"reasoning": "<|bbox_0|> the cup is gone. <|global|> 1 of 1 done.", "score": [20, 5]}'
)


@pytest.fixture(scope="module")
def tiny():
    from spatial_edit_reward.inference.model import load_model, load_processor

    return load_model(str(BASE), None, "eager"), load_processor(str(BASE), SPEC)


@pytest.fixture(scope="module")
def batch(tiny):
    from spatial_edit_reward.inference.generation import generate_batch

    model, processor = tiny
    row = next(row for row in group_rows(seed=5, number=0, image_size=64) if row["task"] == "sc")
    images = [row["images"][0].resize((64, 32)), row["images"][1]]
    return generate_batch(model, processor, [prompt_messages("sc", row["instruction"], SPEC)], [images], 12)


def test_the_weights_of_a_token_are_those_of_the_step_that_chose_it(tiny, batch):
    import torch

    from evaluation.attention_maps import attention_weights

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


def test_real_attention_maps_keep_their_bounds(tiny, batch):
    import torch

    from evaluation.attention_maps import attention_maps, attention_weights, measure

    model, processor = tiny
    maps = attention_maps(model, processor, batch)
    assert [(one.height, one.width) for one in maps] == [(2, 4), (4, 4)]
    weights = attention_weights(model, batch.inputs, batch.tokens[0, : batch.responses[0].completion_tokens])
    at = (batch.inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    torch.testing.assert_close(torch.cat([one.weights for one in maps], 1), weights[:, at])
    for one in maps:
        measures = measure(one.weights)
        count = one.height * one.width
        assert bool(((measures.mass > 0) & (measures.mass < 1)).all())
        assert bool(((measures.entropy >= 0) & (measures.entropy <= math.log(count) + 1e-6)).all())
        assert bool(((measures.top >= math.ceil(count / 10) / count - 1e-6) & (measures.top <= 1)).all())
        assert one.mean([0, 2]).flatten().tolist() == pytest.approx(one.weights[[0, 2]].mean(0).tolist())
    assert float(sum(measure(one.weights).mass for one in maps).max()) < 1


def test_measures_by_hand():
    import torch

    from evaluation.attention_maps import measure

    measures = measure(torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.0, 0.2, 0.0, 0.0], [0.3, 0.0, 0.0, 0.1], [0.0] * 4]))
    assert measures.mass.tolist() == pytest.approx([0.4, 0.2, 0.4, 0.0])
    assert measures.entropy.tolist()[:3] == pytest.approx(
        [math.log(4), 0.0, -0.75 * math.log(0.75) - 0.25 * math.log(0.25)]
    )
    assert measures.top.tolist()[:3] == pytest.approx([0.25, 1.0, 0.75])
    assert math.isnan(measures.entropy[3]) and math.isnan(measures.top[3])
    # a tenth of 11 tokens, rounded up
    assert float(measure(torch.ones(1, 11)).top) == pytest.approx(2 / 11)


def test_image_tokens_go_row_by_row(tiny):
    """What is changed in one cell of an image changes that cell's token most, whichever cell it is."""
    import torch

    model, processor = tiny

    def features(image):
        inputs = processor.image_processor(images=[image], return_tensors="pt")
        with torch.inference_mode():
            out = model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        return torch.cat(list(out.pooler_output))

    plain = Image.new("RGB", (64, 48), "gray")
    for row, column in ((0, 3), (2, 0), (1, 2)):
        changed = plain.copy()
        changed.paste("red", (16 * column, 16 * row, 16 * column + 16, 16 * row + 16))
        apart = (features(changed) - features(plain)).norm(dim=-1)
        assert int(apart.argmax()) == 4 * row + column


def test_every_token_belongs_to_one_part(tiny_processor):
    from evaluation.diagnose import PARTS, split_parts

    tokens = [*tiny_processor.tokenizer.encode(VERDICT), tiny_processor.tokenizer.eos_token_id]
    pieces = tiny_processor.batch_decode([[token] for token in tokens], skip_special_tokens=True)
    parts = split_parts(pieces)
    assert list(parts) == list(PARTS)
    assert parts["all"] == list(range(len(tokens) - 1)) == [i for part in PARTS[:3] for i in parts[part]]
    texts = ["".join(pieces[i] for i in parts[part]) for part in PARTS]
    assert texts[0].startswith('{"edit_region"') and texts[0].endswith("],")
    assert "cup is gone" in texts[1] and texts[2].strip() == '"score": [20, 5]}'


def test_rows_are_evenly_spread(small_data):
    from evaluation.diagnose import spread_evenly

    rows = load_rows(small_data / "heldout.parquet", load_spec(small_data))
    indices = spread_evenly(rows, 4)
    assert len(indices) == 4 and {rows[i]["task"] for i in indices} == {"sc"} and max(indices) > len(rows) // 2
    assert spread_evenly(rows, 1000) == [i for i, row in enumerate(rows) if row["task"] == "sc"]


def test_heat_is_drawn_where_it_is():
    values = np.zeros((2, 4))
    values[1, 2] = 1.0
    shown = np.asarray(overlay_heatmap(Image.new("RGB", (64, 32), "black"), values, 128)).astype(int).sum(-1)
    assert shown.shape == (64, 128)
    bright = np.argwhere(shown == shown.max())
    assert (bright.min(0).tolist(), bright.max(0).tolist()) == ([32, 64], [63, 95])


def test_the_page_the_table_and_the_figures(small_data, tmp_path, monkeypatch, capsys):
    from evaluation import diagnose as module
    from tests.spatial_edit_reward.inference.forced import writing

    parts = module.PARTS
    spec = load_spec(small_data).model_copy(update={"max_new_tokens": 200})
    rows = load_rows(small_data / "heldout.parquet", spec)
    tidy = render("sc", rows[module.spread_evenly(rows, 2)[1]]["reference"])
    texts = iter([VERDICT, "nothing to read", tidy])
    load = module.load_for_inference

    def load_forced(*arguments, **options):
        """The real model; each of its completions is the next of `texts`."""
        model, processor = load(*arguments, **options)
        real = module.generate_batch

        def forced(model, processor, *rest):
            with writing(model, processor, [next(texts)]):
                return real(model, processor, *rest)

        monkeypatch.setattr(module, "generate_batch", forced)
        return model, processor

    monkeypatch.setattr(module, "load_for_inference", load_forced)
    report = module.diagnose(str(BASE), spec, rows, 3, tmp_path / "diagnose")
    assert len(report["rows"]) == 2 and len(report["left_out"]) == 1
    assert json.loads((tmp_path / "diagnose" / "diagnose.json").read_text()) == report
    for part in parts:
        for name in ("mass_source", "entropy_edited", "entropy_difference", "top_edited"):
            assert report["means"][part][name] == pytest.approx(
                sum(one["parts"][part][name] for one in report["rows"]) / 2
            )
    counts = report["rows"][0]["parts"]
    assert counts["all"]["tokens"] == sum(counts[part]["tokens"] for part in parts[:3])
    page, printed = (tmp_path / "diagnose" / "diagnose.html").read_text(), capsys.readouterr().out
    assert page.count("data:image/png;base64,") == 2 * 2 * len(parts)
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "cannot be compared with the paper" in " ".join(page.split()) and "1 unparsed left out" in printed
    assert "edit_region" in printed and "diagnose.html" in printed


def test_a_model_that_writes_no_verdict_is_an_error(small_data, tmp_path):
    from evaluation.diagnose import diagnose

    spec = load_spec(small_data).model_copy(update={"max_new_tokens": 4})
    rows = load_rows(small_data / "heldout.parquet", spec)
    with pytest.raises(UserError, match="no readable verdict on 2 rows"):
        diagnose(str(BASE), spec, rows, 2, tmp_path / "diagnose")
    assert not (tmp_path / "diagnose").exists()
