"""The 8B model on the meta device: its size, and what its LoRA reaches."""

import re

import pytest

from spatial_edit_reward.errors import UserError
from tests.conftest import BASE, ROOT

RECIPE = ROOT / "recipes" / "spatialreward-8b"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def planned(name="spatialreward-8b", stage="sft", **changes):
    """(the stage's model on `meta`, its options) of a recipe, with `changes`."""
    from tools.plan.model import find_config, load_model_config, meta_model
    from tools.plan.stage import load_stage

    file = ROOT / "recipes" / name / f"{stage}.yaml"
    options = {**load_stage(file, {}).options, **changes}
    return meta_model(load_model_config(find_config(file, "none")), options), options


@pytest.mark.parametrize(
    ("name", "billions"), [("spatialreward-8b", 8.767), ("spatialreward-4b", 4.438), ("spatialreward-2b", 2.128)]
)
def test_the_family_has_the_published_sizes(name, billions):
    from tools.plan.model import parameters_by_part

    model, _ = planned(name, use_peft=False)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=5e-4)
    parts = parameters_by_part(model)
    assert sum(total for total, _ in parts.values()) == sum(trained for _, trained in parts.values())


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_the_lora_reaches_seven_projections_of_36_layers_and_no_visual_module(stage):
    from pipeline.model import trained_parameters
    from tools.plan.model import without_adapter

    model, options = planned(stage=stage)
    modules = {name.split(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert len(modules) == 7 * 36
    pattern = re.compile(r"base_model\.model\.model\.language_model\.layers\.(\d+)\.(self_attn|mlp)\.(\w+)")
    adapted = [pattern.fullmatch(name).groups() for name in modules]
    assert {(int(layer), projection) for layer, _, projection in adapted} == {
        (layer, projection) for layer in range(36) for projection in PROJECTIONS
    }
    assert not any("visual" in name for name in modules)

    text, rank = without_adapter(model).config.get_text_config(), options["lora_r"]
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    h, i = text.hidden_size, text.intermediate_size
    sides = [(h, queries), (h, keys), (h, keys), (queries, h), (h, i), (h, i), (i, h)]
    assert trained_parameters(model) == 36 * rank * sum(one + other for one, other in sides) == 87_293_952


def test_a_lora_on_everything_is_refused():
    from pipeline.model import trained_parameters

    model, _ = planned(lora_target_modules=[r".*\.qkv"])
    with pytest.raises(UserError, match="vision tower"):
        trained_parameters(model)
    with pytest.raises(UserError, match="lora_target_modules"):
        planned(lora_target_modules=["q_projection"])


def test_four_bits_leave_the_vision_tower_the_embeddings_and_the_output_layer_alone():
    from tools.plan.model import quantized

    model, options = planned("spatialreward-8b-qlora")
    small = quantized(model, options)
    assert len(small) == 7 * 36 and all("language_model.layers" in name for name in small)
    assert {p.dtype.itemsize for p in model.parameters() if p.requires_grad} == {2}


def test_the_configuration_is_that_of_the_base_or_of_a_recipe_below(tmp_path):
    from tools.plan.model import find_config

    assert find_config(ROOT / "recipes/tiny/sft.yaml", str(BASE)) == BASE / "config.json"
    assert find_config(ROOT / "recipes/spatialreward-8b-qlora/sft.yaml", "Qwen/none") == RECIPE / "config.json"
    (tmp_path / "sft.yaml").write_text("seed: 1")
    with pytest.raises(UserError, match=r"config\.json is not there"):
        find_config(tmp_path / "sft.yaml", "Qwen/none")
