"""Checks of vLLM's rollouts that need no vLLM; tests/vllm_cpu has it sample."""

from types import SimpleNamespace

import pytest

from spatial_edit_reward.errors import UserError


def logps(sampled, recomputed):
    """A rollout as TRL returns it: two completions, the second one shorter by a padding token."""
    import torch

    return {
        "sampling_per_token_logps": torch.tensor(sampled),
        "old_per_token_logps": torch.tensor(recomputed),
        "completion_mask": torch.tensor([[1, 1], [1, 0]]),
    }


def test_an_image_is_one_token_for_a_colocated_vllm():
    from grpo.rollouts import collapse, run_lengths

    for ids, expected, lengths in (
        ([], [], []),
        ([1, 1, 2], [1, 1, 2], []),
        ([7], [7], [1]),
        ([7, 7, 1, 1, 7, 7, 7], [7, 1, 1, 7], [2, 3]),
    ):
        assert (collapse(ids, 7), run_lengths(ids, 7)) == (expected, lengths)


def test_the_mean_is_over_sampled_tokens_and_nan_is_no_small_difference():
    from accelerate import Accelerator

    from grpo.rollouts import check_logp_difference

    accelerator = Accelerator(cpu=True)
    close = logps([[-1.0, -2.0], [-3.0, 0.0]], [[-1.1, -2.0], [-2.8, -9.0]])
    assert check_logp_difference(close, accelerator, bound=0.11) == pytest.approx(0.1)
    with pytest.raises(UserError, match=r"is 0.1, above max_logp_difference 0.09"):
        check_logp_difference(close, accelerator, bound=0.09)
    with pytest.raises(UserError, match="is nan, above"):
        check_logp_difference(logps([[-1.0, float("nan")], [-3.0, 0.0]], [[-1.0] * 2] * 2), accelerator, bound=9.0)


def test_rollouts_that_cannot_be_right_or_checked_are_refused():
    from grpo.__main__ import check_rollouts

    full = SimpleNamespace(load_in_4bit=False, load_in_8bit=False)
    quantized = SimpleNamespace(load_in_4bit=True, load_in_8bit=False)
    on = SimpleNamespace(use_vllm=True, vllm_importance_sampling_correction=True)
    uncorrected = SimpleNamespace(use_vllm=True, vllm_importance_sampling_correction=False)
    check_rollouts(on, full, 0.05)
    check_rollouts(uncorrected, full, None)
    check_rollouts(SimpleNamespace(use_vllm=False, vllm_importance_sampling_correction=False), quantized, 0.05)
    with pytest.raises(UserError, match="vllm_importance_sampling_correction: true alone"):
        check_rollouts(uncorrected, full, 0.05)
    with pytest.raises(UserError, match="is not above 0"):
        check_rollouts(on, full, 0.0)
    with pytest.raises(UserError, match="merged into the quantized weights"):
        check_rollouts(on, quantized, None)
