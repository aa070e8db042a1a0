"""What is trained: the language model's projections and nothing of the vision tower."""

import pytest

from pipeline.recipe import read_yaml
from spatial_edit_reward import Spec
from spatial_edit_reward.errors import UserError
from tests.conftest import BASE, ROOT

SPEC = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=320)


def load_base():
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(BASE)


@pytest.mark.parametrize(
    ("recipe", "stage", "which"),
    [
        ("spatialreward-8b", "sft", "all"),
        ("spatialreward-8b", "grpo", "all"),
        ("tiny", "sft", "all"),
        ("tiny", "grpo", "last"),  # by its number: a base of another depth needs another
    ],
)
def test_the_recipes_regex_adapts_exactly_the_language_models_projections(recipe, stage, which):
    from peft import LoraConfig, get_peft_model

    from pipeline.model import trained_parameters

    options, model = read_yaml(ROOT / f"recipes/{recipe}/{stage}.yaml"), load_base()
    layers = range(model.config.text_config.num_hidden_layers)[0 if which == "all" else -1 :]
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=options["lora_target_modules"][0]))
    names = {name.split(".lora_")[0] for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(names) == 7 * len(layers)
    adapted_layers = {name.split("language_model.layers.")[1].split(".")[0] for name in names}
    assert adapted_layers == {str(layer) for layer in layers}
    assert trained_parameters(adapted) == sum(p.numel() for p in adapted.parameters() if p.requires_grad) > 0


def test_a_lora_that_reaches_the_vision_tower_is_refused():
    from peft import LoraConfig, get_peft_model

    from pipeline.model import trained_parameters

    adapted = get_peft_model(load_base(), LoraConfig(r=4, target_modules="all-linear"))
    with pytest.raises(UserError, match="vision tower"):
        trained_parameters(adapted)


def test_nothing_to_train_is_refused():
    from pipeline.model import trained_parameters

    model = load_base().requires_grad_(False)
    with pytest.raises(UserError, match="nothing would be trained"):
        trained_parameters(model)


def test_missing_models_are_named(tmp_path):
    from spatial_edit_reward.inference.model import load_model, load_processor

    with pytest.raises(UserError, match="no such checkpoint"):
        load_model("/nowhere/at/all", None, None)
    with pytest.raises(UserError, match=str(tmp_path)):
        load_model(str(tmp_path), None, None)
    with pytest.raises(UserError, match="no processor"):
        load_processor(str(tmp_path), SPEC)


def test_processor_takes_the_specs_pixels():
    from spatial_edit_reward.inference.model import load_processor

    spec = SPEC.model_copy(update={"pixels": SPEC.pixels.model_copy(update={"max": 1024})})
    assert load_processor(str(BASE), spec).image_processor.size["longest_edge"] == 1024
    wrong = SPEC.model_copy(update={"pixels": SPEC.pixels.model_copy(update={"multiple": 32})})
    with pytest.raises(UserError, match="patches of 16"):
        load_processor(str(BASE), wrong)


def test_vision_tokens_are_single_tokens(tiny_processor):
    from spatial_edit_reward.inference.model import vision_token_ids

    ids = vision_token_ids(tiny_processor)
    assert len(set(ids)) == 5 and tiny_processor.tokenizer.unk_token_id not in ids
    assert all(isinstance(token, int) for token in ids)
