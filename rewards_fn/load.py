"""From a recipe's `reward_funcs` to functions that TRL takes; and the same rewards outside training."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from rewards_fn.box_iou import box_iou
from rewards_fn.format import format
from rewards_fn.score_agreement import score_agreement
from spatial_edit_reward.schema import DEFAULT_SCORE_RANGE, ScoreRange

Reward = Callable[..., list[float | None]]
# The rewards that need no more than a completion, its reference and its task. A new one is a line here.
RULES: dict[str, Reward] = {"box_iou": box_iou, "score_agreement": score_agreement, "format": format}
# Every name a recipe can use; the judge's module needs packages that the rules do not, so it is imported when it is named.
KNOWN = {**{name: f"{rule.__module__}:{name}" for name, rule in RULES.items()}, "judge": "rewards_fn.judge:judge"}
# The keywords that a reward gets in training, beside what the trainer knows alone (token ids, its state, its log).
COLUMNS = ("prompts", "completions", "reference", "task", "id", "instruction", "images")
TRAINER_ALONE = ("completion_ids", "trainer_state", "log_extra", "log_metric")
# What reports have beside each reward under its name, so that no reward can have it: metrics, and figures of a file.
RESERVED = frozenset(
    (
        *("valid", "empty_region", "score_mae", "reward", "ranking_accuracy", "tie_rate", "truncated", "scores"),
        *("samples", "complete_samples", "coverage", "intervals", "mean_box_iou", "expected_score_agreement"),
        *("empty_region_precision", "empty_region_recall", "said_empty", "truly_empty"),
        *("verdicts", "unparsed_rate", "repaired_rate", "truncated_rate", "prompt_tokens", "completion_tokens"),
    )
)


def _split(entry: Any) -> tuple[str, dict[str, Any]]:
    """An entry of `reward_funcs` as (name, keywords). Raises ValueError where it is neither a name nor {name: keywords}."""
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, Mapping) and len(entry) == 1:
        name, keywords = next(iter(entry.items()))
        if isinstance(name, str) and isinstance(keywords or {}, Mapping):
            return name, dict(keywords or {})
    raise ValueError(f"reward_funcs: {entry!r} is neither a name nor one name with its keywords")


def _import(name: str) -> Callable[..., Any]:
    module, separator, attribute = name.partition(":")
    if not separator:
        if name not in KNOWN:
            raise ValueError(f"unknown reward {name!r}; known: {', '.join(KNOWN)}, trl:NAME, package.module:function")
        return _import(KNOWN[name])
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
    missing = [key for key in needed if key not in (*keywords, *COLUMNS, *TRAINER_ALONE)]
    if missing:
        raise TypeError(f"it needs {', '.join(missing)}")


def _check_name(function: Callable[..., Any]) -> None:
    """Raises ValueError for a function whose name reports use for something else."""
    (name,) = reward_names([function])
    if name in RESERVED or function is not RULES.get(name, function):
        raise ValueError(f"reward {name}: reports use this name for something else: rename the function")


def _load(entry: Any, score_range: ScoreRange) -> Reward:
    name, keywords = _split(entry)
    function = _import(name)
    try:
        if name.startswith("trl:get_"):
            reward: Reward = function(**keywords)
            return reward
        _check_keywords(name, function, keywords)
    except TypeError as error:
        raise ValueError(f"reward {name!r}: {error}") from None
    _check_name(function)
    if "score_range" in inspect.signature(function).parameters:
        keywords = {"score_range": score_range, **keywords}
    if not keywords:
        return function
    return functools.update_wrapper(functools.partial(function, **keywords), function)


def load_rewards(entries: Sequence[Any], score_range: ScoreRange = DEFAULT_SCORE_RANGE) -> list[Reward]:
    """The reward functions of a recipe, in order, each with its `__name__` for the logs.

    Args:
        entries: each a name of KNOWN, "trl:NAME" (from `trl.rewards`; a `get_*` is called with the keywords and gives the
            reward) or "package.module:function"; or a mapping of one of these to keywords.
        score_range: given to every reward that takes a `score_range`, unless its entry names another.

    Raises:
        ValueError: anything else than such an entry, or a function with a name that reports use for something else.

    >>> [reward.__name__ for reward in load_rewards(["format", {"box_iou": {"power": 0.5}}])]
    ['format', 'box_iou']
    """
    if not entries:
        raise ValueError(f"reward_funcs: at least one reward is needed; known: {', '.join(KNOWN)}")
    rewards = [_load(entry, score_range) for entry in entries]
    names = reward_names(rewards)
    for i, name in enumerate(names):
        if name in names[:i]:  # one reward with other keywords, or two modules' functions: logs tell them apart
            numbered = f"{name}_{names[: i + 1].count(name)}"
            if numbered in names:
                raise ValueError(f"reward {numbered}: another {name} gets this name: rename the function")
            rewards[i] = functools.update_wrapper(functools.partial(rewards[i]), rewards[i])
            rewards[i].__name__ = numbered
    return rewards


def reward_names(rewards: Sequence[Reward]) -> list[str]:
    """What logs and reports call each reward, as TRL does: its `__name__`."""
    return [getattr(reward, "__name__", str(reward)) for reward in rewards]


class Selected(NamedTuple):
    """Some entries of a recipe, their rewards and weights; `left_out`: the other rewards' names, each with the reason."""

    entries: list[Any]
    rewards: list[Reward]
    weights: list[float]
    left_out: dict[str, str]


def select_rewards(
    entries: Sequence[Any],
    weights: Sequence[float] | None = None,
    columns: Collection[str] = COLUMNS,
    score_range: ScoreRange = DEFAULT_SCORE_RANGE,
) -> Selected:
    """The rewards that can be computed outside training, from `columns` alone.

    Left out is what needs another keyword, such as token ids, and what is asynchronous, since it asks a service.

    Args:
        entries, score_range: see `load_rewards`.
        weights: of the entries; None: 1 each.
        columns: the keywords that the caller can give to a reward.

    Raises:
        ValueError: entries that cannot be loaded, or weights of another number.
    """
    rewards = load_rewards(entries, score_range)
    weights = [1.0] * len(rewards) if weights is None else weights
    if len(weights) != len(rewards):
        raise ValueError(f"reward_weights: {len(weights)} for {len(rewards)} reward_funcs")
    selected = Selected([], [], [], {})
    for entry, reward, name, weight in zip(entries, rewards, reward_names(rewards), weights, strict=True):
        lacking = [parameter for parameter in required_columns(reward) if parameter not in columns]
        if inspect.iscoroutinefunction(reward):
            selected.left_out[name] = "asks a service"
        elif lacking:
            selected.left_out[name] = f"needs {', '.join(lacking)}"
        else:
            selected.entries.append(entry)
            selected.rewards.append(reward)
            selected.weights.append(weight)
    return selected


def required_columns(reward: Reward) -> list[str]:
    """The parameters without which `reward` cannot be called."""
    parameters = inspect.signature(reward, follow_wrapped=False).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def apply_rewards(
    rewards: Sequence[Reward], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]
) -> list[list[float | None]]:
    """What each reward gives to `completions`, called as TRL's trainer calls it: each completion is one assistant message.

    Args:
        columns: the other keywords, a value per completion; without "prompts" these are empty.

    Returns:
        A list per reward; None where it does not apply (it returned None or NaN).

    Raises:
        ValueError: a reward returned another number of values than there are completions.
    """
    messages = [[{"role": "assistant", "content": text}] for text in completions]
    values = []
    for reward, name in zip(rewards, reward_names(rewards), strict=True):
        column = reward(**{"prompts": [""] * len(messages), **columns}, completions=messages)
        if len(column) != len(messages):
            raise ValueError(f"reward {name!r} gave {len(column)} values for {len(messages)} completions")
        values.append([None if value is None or value != value else value for value in column])
    return values


def weighted_mean(rewards: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """The weighted mean of the rewards that apply (are not None), in 0..1 for rewards in 0..1; None where none applies.

    >>> weighted_mean([None, 1.0, 0.5], weights=[2, 1, 1])
    0.75
    """
    applying = [(weight, reward) for weight, reward in zip(weights, rewards, strict=True) if reward is not None]
    total = sum(weight for weight, _ in applying)
    return sum(weight * reward for weight, reward in applying) / total if total else None
