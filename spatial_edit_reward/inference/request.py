"""What a backend is asked and what it answers: the one interface of every backend. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple, TypeVar

from PIL import Image

from spatial_edit_reward import Spec, Task

MAX_IMAGES = 8  # of one request: several sources and the edit
TEXT_TOKENS = 1024  # room for the prompt's text and the chat's frame
Item = TypeVar("Item")


class Request(NamedTuple):
    """One completion to generate; only `pq` may have no `instruction`.

    `key` names the prompt in the store; `sample` is 0 for the first of several completions.
    """

    key: str
    task: Task
    instruction: str | None
    images: list[Image.Image]
    sample: int = 0


class Response(NamedTuple):
    """One completion; `truncated`: it was cut off at the limit of tokens.

    `expected`: the two scores read from the score tokens' probabilities, where that was asked for.
    """

    text: str
    truncated: bool
    expected: list[float] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Sampling(NamedTuple):
    """How completions are drawn: temperature above 0, and the share of probability 0..1 that tokens are drawn from."""

    temperature: float
    top_p: float = 1.0


# Takes requests one by one as it has room for them, so that their images are never all in memory. Responses come as they
# arrive, in any order, each once; a request that got none after every retry is left out.
Backend = Callable[[Iterable[Request]], Iterator[tuple[Request, Response]]]


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """`items` in lists of `size`, the last one shorter (`itertools.batched` of Python 3.12)."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def max_model_len(spec: Spec, images: int = MAX_IMAGES) -> int:
    """Tokens that a request with `images` images may need: the images at their limit, the prompt's text, the completion."""
    return images * -(-spec.pixels.max // spec.pixels.multiple**2) + TEXT_TOKENS + spec.max_new_tokens
