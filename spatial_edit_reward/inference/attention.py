"""Which attention kernel is used: flash-attn where it is installed and can run, else PyTorch's own (SDPA)."""

from __future__ import annotations

import torch
from transformers.utils import is_flash_attn_2_available

FLASH, SDPA = "flash_attention_2", "sdpa"


def best_attention(wanted: str | None, dtype: torch.dtype | None, on_gpu: bool | None = None) -> tuple[str, str]:
    """(name for `attn_implementation`, why it is that one); that flash-attn is missing is never an error.

    `wanted`: the recipe's choice; null takes flash-attn, which needs a GPU and half precision, where that is there. `on_gpu`:
    whether there is one; None looks.
    """
    if wanted not in (None, FLASH):
        return wanted, "as the recipe says"
    if not (torch.cuda.is_available() if on_gpu is None else on_gpu):
        return SDPA, "flash-attn needs a GPU"
    if dtype not in (torch.bfloat16, torch.float16):
        return SDPA, "flash-attn needs bfloat16 or float16"
    if not is_flash_attn_2_available():
        return SDPA, "flash-attn is not installed; the extra `flash` has it"
    return FLASH, "flash-attn is installed"
