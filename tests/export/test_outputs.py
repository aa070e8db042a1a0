"""Where the merged model is run: on a GPU that has room for it, in the dtype it computes in."""

import pytest

from tests.conftest import BASE
from tests.export.conftest import SPEC


@pytest.mark.parametrize(
    ("gpu", "free", "dtype", "device"),
    [
        (False, 0, "float32", "cpu"),
        (True, 6_000_000, "float32", "cuda"),  # 1.16 M parameters
        (True, 5_000_000, "float32", "cpu"),
        (True, 5_000_000, "bfloat16", "cuda"),
    ],
)
def test_the_model_goes_where_there_is_room(monkeypatch, gpu, free, dtype, device):
    import torch
    from transformers import AutoModelForImageTextToText

    from export.outputs import choose_device

    model = AutoModelForImageTextToText.from_pretrained(BASE)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, free))
    assert choose_device(model, getattr(torch, dtype)) == device


def test_logits_of_fp32_weights_are_compared_without_the_noise_of_fp32_arithmetic():
    import torch

    from export.outputs import load, max_logit_difference, run_prompts

    # Verdicts are a matter of the dtype that people generate in; a few tokens are enough to tell.
    spec = SPEC.model_copy(update={"max_new_tokens": 4})
    single, double = (
        run_prompts(lambda: load(BASE), BASE, spec, torch.float32, in_) for in_ in (torch.float32, torch.float64)
    )
    assert {output.logits.dtype for output in double} == {torch.float64}
    assert 0 < max_logit_difference(single, double) < 1e-3
    assert [output.text for output in single] == [output.text for output in double]
