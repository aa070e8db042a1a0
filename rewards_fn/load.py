"""From a recipe's `reward_funcs` to functions that TRL takes, and their weighted mean for reports."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rewards_fn.box_iou import box_iou
from rewards_fn.format import format
from rewards_fn.score_agreement import score_agreement

Reward = Callable[..., list[float | None]]
# The rewards that need no more than a completion, its reference and its task.
RULES: dict[str, Reward] = {"box_iou": box_iou, "score_agreement": score_agreement, "format": format}
# Every name a recipe can use; the judge's module needs packages that the rules do not, so it is imported when it is named.
KNOWN = {**{name: f"{rule.__module__}:{name}" for name, rule in RULES.items()}, "judge": "rewards_fn.judge:judge"}


def _split(entry: Any) -> tuple[str, dict[str, Any]]:
    """An entry of `reward_funcs` as (name, keywords). Raises ValueError where it is neither a name nor {name: keywords}."""
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, Mapping) and len(entry) == 1:
        name, keywords = next(iter(entry.items()))
        if isinstance(name, str) and isinstance(keywords or {}, Mapping):
            return name, dict(keywords or {})
    raise ValueError(f"reward_funcs: {entry!r} is neither a name nor one name with its keywords")


def _found(name: str) -> Callable[..., Any]:
    module, separator, attribute = name.partition(":")
    if not separator:
        if name not in KNOWN:
            raise ValueError(f"unknown reward {name!r}; known: {', '.join(KNOWN)}, trl:NAME, package.module:function")
        return _found(KNOWN[name])
    try:
        return getattr(importlib.import_module("trl.rewards" if module == "trl" else module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"reward {name!r} cannot be loaded: {error}") from None


def _check_keywords(name: str, function: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
    """Raises TypeError for a keyword that `function` does not take, and for one that it needs and no trainer gives."""
    parameters = inspect.signature(function).parameters
    inspect.signature(function).bind_partial(**keywords)
    # Rewards take `**kwargs` for a trainer's other columns, which would hide a misspelt keyword.
    unknown = [key for key in keywords if name in KNOWN and key not in parameters]
    if unknown:
        raise TypeError(f"it takes no {', '.join(unknown)}")
    needed = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    missing = [key for key in needed if key not in keywords]
    if missing:
        raise TypeError(f"it needs {', '.join(missing)}")


def load_rewards(entries: Sequence[Any]) -> list[Reward]:
    """The reward functions of a recipe, in order, each with its `__name__` for the logs.

    `entries`: a name of KNOWN, "trl:NAME" (from `trl.rewards`; a `get_*` is called with the keywords and gives the reward) or
    "package.module:function"; or a mapping of one of these to keywords. Raises ValueError for anything else.
    """
    if not entries:
        raise ValueError(f"reward_funcs: at least one reward is needed; known: {', '.join(KNOWN)}")
    rewards: list[Reward] = []
    for entry in entries:
        name, keywords = _split(entry)
        function = _found(name)
        try:
            if name.startswith("trl:get_"):
                rewards.append(function(**keywords))
                continue
            _check_keywords(name, function, keywords)
        except TypeError as error:
            raise ValueError(f"reward {name!r}: {error}") from None
        if keywords:
            reward = functools.partial(function, **keywords)
            functools.update_wrapper(reward, function)
            rewards.append(reward)
        else:
            rewards.append(function)
    return rewards


def weighted_mean(rewards: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """The weighted mean of the rewards that apply (are not None), in 0..1 for rewards in 0..1; None where none applies."""
    applying = [(weight, reward) for weight, reward in zip(weights, rewards, strict=True) if reward is not None]
    total = sum(weight for weight, _ in applying)
    return sum(weight * reward for weight, reward in applying) / total if total else None
