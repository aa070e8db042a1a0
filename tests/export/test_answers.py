"""Where the merged model is asked: on a GPU that has room for it, in the dtype it computes in."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from export.answers import device_for
from tests.conftest import BASE


@pytest.mark.parametrize(
    ("gpu", "free", "dtype", "device"),
    [
        (False, 0, torch.float32, "cpu"),
        (True, 6_000_000, torch.float32, "cuda"),  # 1.16 M parameters
        (True, 5_000_000, torch.float32, "cpu"),
        (True, 5_000_000, torch.bfloat16, "cuda"),
    ],
)
def test_the_model_goes_where_there_is_room(monkeypatch, gpu, free, dtype, device):
    model = AutoModelForImageTextToText.from_pretrained(BASE)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, free))
    assert device_for(model, dtype) == device
