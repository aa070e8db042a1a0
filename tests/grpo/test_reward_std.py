"""Groups without spread are counted by group, per reward and for the weighted sum."""

import torch

from grpo.reward_std import frac_reward_zero_std

NAN = float("nan")


def test_one_flat_group_and_one_that_is_not():
    rewards = torch.tensor([[0.5, 1.0], [0.5, 1.0], [0.2, 1.0], [0.4, 1.0]])
    shares = frac_reward_zero_std(rewards, torch.tensor([1.0, 1.0]), ["box_iou", "format"], 2)
    assert shares == {"box_iou": 0.5, "format": 1.0, "weighted_sum": 0.5}


def test_rewards_that_cancel_are_flat_only_in_the_sum():
    rewards = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert frac_reward_zero_std(rewards, torch.tensor([1.0, 1.0]), ["a", "b"], 2) == {
        "a": 0.0,
        "b": 0.0,
        "weighted_sum": 1.0,
    }


def test_a_reward_that_does_not_apply_to_a_group_is_left_out():
    rewards = torch.tensor([[NAN, 1.0], [NAN, 0.0], [0.3, 1.0], [0.3, 1.0]])
    shares = frac_reward_zero_std(rewards, torch.tensor([1.0, 1.0]), ["box_iou", "format"], 2)
    assert shares == {"box_iou": 1.0, "format": 0.5, "weighted_sum": 0.5}
    nowhere = frac_reward_zero_std(torch.tensor([[NAN], [NAN]]), torch.tensor([1.0]), ["box_iou"], 2)
    assert nowhere == {}
