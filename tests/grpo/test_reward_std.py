"""Groups without spread are counted by group, per reward and for the weighted sum."""

from types import SimpleNamespace

import pytest

from grpo.__main__ import check_save_steps
from spatial_edit_reward.errors import UserError

NAN = float("nan")


def frac_reward_zero_std(rewards, weights, names, group_size):
    """The function, on lists."""
    import torch

    from grpo.reward_std import frac_reward_zero_std

    return frac_reward_zero_std(torch.tensor(rewards), torch.tensor(weights), names, group_size)


def test_one_flat_group_and_one_that_is_not():
    rewards = [[0.5, 1.0], [0.5, 1.0], [0.2, 1.0], [0.4, 1.0]]
    shares = frac_reward_zero_std(rewards, [1.0, 1.0], ["box_iou", "format"], 2)
    assert shares == {"box_iou": 0.5, "format": 1.0, "weighted_sum": 0.5}


def test_rewards_that_cancel_are_flat_only_in_the_sum():
    rewards = [[0.0, 1.0], [1.0, 0.0]]
    assert frac_reward_zero_std(rewards, [1.0, 1.0], ["a", "b"], 2) == {
        "a": 0.0,
        "b": 0.0,
        "weighted_sum": 1.0,
    }


def test_a_reward_that_does_not_apply_to_a_group_is_left_out():
    rewards = [[NAN, 1.0], [NAN, 0.0], [0.3, 1.0], [0.3, 1.0]]
    shares = frac_reward_zero_std(rewards, [1.0, 1.0], ["box_iou", "format"], 2)
    assert shares == {"box_iou": 1.0, "format": 0.5, "weighted_sum": 0.5}
    # one completion of a group without a reward: the group still counts, by the others
    partly = frac_reward_zero_std([[NAN], [0.2], [0.4], [0.5]], [1.0], ["box_iou"], 2)
    assert partly == {"box_iou": 0.5, "weighted_sum": 0.5}
    nowhere = frac_reward_zero_std([[NAN], [NAN]], [1.0], ["box_iou"], 2)
    assert nowhere == {}


def test_a_completion_without_any_reward_is_left_out_of_the_sum_and_one_with_some_is_not():
    """TRL's rule: a row is unscorable where every reward is None; a sum of 0 would differ from the others in the group."""
    shares = frac_reward_zero_std([[0.5, 0.5], [NAN, NAN], [NAN, 1.0], [0.5, 0.5]], [1.0, 1.0], ["a", "b"], 2)
    assert shares["weighted_sum"] == 1.0
    shares = frac_reward_zero_std([[NAN, 0.25], [0.5, 0.5]], [1.0, 1.0], ["a", "b"], 2)
    assert shares["weighted_sum"] == 0.0


def test_the_weighted_sum_is_weighted():
    rewards = [[0.0, 1.0], [0.5, 0.0]]
    assert frac_reward_zero_std(rewards, [2.0, 1.0], ["a", "b"], 2)["weighted_sum"] == 1.0
    assert frac_reward_zero_std(rewards, [1.0, 1.0], ["a", "b"], 2)["weighted_sum"] == 0.0
    assert frac_reward_zero_std(rewards, [1.0, 0.0], ["a", "b"], 2)["weighted_sum"] == 0.0


@pytest.mark.parametrize(
    ("save_steps", "accumulation", "per_generation", "iterations", "strategy", "fits"),
    [
        (4, 1, 4, 1, "steps", True),
        (2, 1, 4, 1, "steps", False),
        (2, 2, 4, 1, "steps", True),  # 2 updates of 2 micro-batches: a rollout of 4
        (4, 1, 4, 2, "steps", False),  # each rollout is learnt from twice
        (8, 1, 4, 2, "steps", True),
        (4, 2, 4, 2, "steps", True),
        (0.5, 1, 1, 1, "steps", False),  # a share of all steps
        (4, 1, 4, 1, "epoch", False),
        (3, 1, 4, 1, "no", True),
    ],
)
def test_a_checkpoint_must_not_fall_into_a_rollout(
    save_steps, accumulation, per_generation, iterations, strategy, fits
):
    args = SimpleNamespace(
        save_steps=save_steps,
        save_strategy=strategy,
        gradient_accumulation_steps=accumulation,
        steps_per_generation=per_generation,
        num_iterations=iterations,
    )
    if fits:
        check_save_steps(args)
    else:
        with pytest.raises(UserError, match="save_steps"):
            check_save_steps(args)
