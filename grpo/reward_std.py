"""How many groups teach nothing: their completions all earned the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch

# A standard deviation below this is rounding (rewards are 0..1 in fp32).
FLAT = 1e-6


def frac_reward_zero_std(
    rewards: torch.Tensor, weights: torch.Tensor, names: Sequence[str], group_size: int
) -> dict[str, float]:
    """Share of groups whose rewards do not differ, by reward name and, as "weighted_sum", for the weighted sum.

    `rewards`: (groups * group_size, functions), NaN where a reward does not apply. Groups to which a reward does not apply
    are left out of its share; a reward that applies to none is left out of the result.
    """
    grouped = rewards.view(-1, group_size, rewards.shape[1])
    columns = {name: grouped[:, :, index] for index, name in enumerate(names)}
    unscorable = torch.isnan(grouped).all(dim=2)
    weighted = (grouped * weights).nansum(dim=2)
    columns["weighted_sum"] = torch.where(unscorable, torch.nan, weighted)
    shares = {}
    for name, values in columns.items():
        applies = ~torch.isnan(values).all(dim=1)
        if applies.any():
            known = values[applies]
            low = torch.where(torch.isnan(known), torch.inf, known).amin(dim=1)
            high = torch.where(torch.isnan(known), -torch.inf, known).amax(dim=1)
            shares[name] = float((high - low < FLAT).float().mean())
    return shares
