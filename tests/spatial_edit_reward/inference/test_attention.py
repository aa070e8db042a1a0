"""Attention: flash-attn only where it can run, SDPA otherwise, and a line that says which."""

import pytest

from tests.conftest import BASE


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("wanted", [None, "flash_attention_2"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", None])
@pytest.mark.parametrize("on_gpu", [True, False])
def test_flash_attention_only_where_it_can_run(monkeypatch, installed, wanted, dtype, on_gpu):
    import torch

    from spatial_edit_reward.inference import attention

    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: installed)
    kernel, why = attention.best_attention(wanted, dtype and getattr(torch, dtype), on_gpu)
    assert (kernel == "flash_attention_2") == (installed and on_gpu and dtype == "bfloat16")
    assert kernel in ("flash_attention_2", "sdpa") and why


def test_another_choice_of_the_recipe_stays():
    import torch

    from spatial_edit_reward.inference.attention import best_attention

    assert best_attention("eager", torch.float32, True)[0] == "eager"


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_a_recipe_that_asks_for_flash_attention_runs_without_it(capsys, dtype):
    import torch

    from spatial_edit_reward.inference.model import load_model

    if torch.cuda.is_available():
        pytest.skip("on a CPU")
    model = load_model(str(BASE), dtype, "flash_attention_2")
    assert model.config._attn_implementation == "sdpa"
    assert "attention by sdpa (flash-attn needs a GPU)" in capsys.readouterr().out
