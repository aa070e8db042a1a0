"""What a generation backend is asked and what it answers: the one interface of every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from PIL import Image

from spatial_edit_reward import Task


class Request(NamedTuple):
    """One verdict to ask for. `key` names the question in result files; `sample` is 0 for the first of several verdicts."""

    key: str
    task: Task
    instruction: str
    images: list[Image.Image]
    sample: int = 0


class Response(NamedTuple):
    """One completion. `expected`: the two scores read from the score tokens' probabilities, where that was asked for."""

    text: str
    truncated: bool
    expected: list[float] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


# Answers come as they arrive, in any order, each once; a question that could not be answered after every retry is left out.
Backend = Callable[[Sequence[Request]], Iterator[tuple[Request, Response]]]
