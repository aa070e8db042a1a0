"""A reward of the tests' own, loaded by `package.module:function`: an untrained model earns it with some spread."""


def length(completions, **kwargs):
    """Characters of each completion, as a share of 200."""
    return [min(1.0, len(completion[0]["content"]) / 200) for completion in completions]
