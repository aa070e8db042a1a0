"""Asking an OpenAI-compatible endpoint: for the judge, and for models that are evaluated there. Needs openai."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from openai import AsyncOpenAI, OpenAIError


class NoAnswer(Exception):  # noqa: N818 - it may be nobody's error
    """A request came to nothing, after every retry; the message says why."""


def open_client(base_url: str | None, api_key_env: str, retries: int, deadline: float) -> AsyncOpenAI:
    """A client of the endpoint; None: the one that OPENAI_BASE_URL names, else OpenAI's. It belongs to one event loop.

    `api_key_env`: the environment variable with the key; where it is not set, none is needed. `retries`: of a request, after
    connection errors and the statuses 408, 409, 429 and 5xx, with growing pauses. `deadline`: seconds for one try.
    """
    secret = os.environ.get(api_key_env) or "none"  # the library insists on a key
    return AsyncOpenAI(base_url=base_url, api_key=secret, max_retries=retries, timeout=deadline)


async def complete(client: AsyncOpenAI, request: Mapping[str, Any], deadline: float) -> Any:
    """What the endpoint answers to a chat completion `request`, unchecked, within `deadline` seconds, all retries included.

    Raises NoAnswer.
    """
    try:
        async with asyncio.timeout(deadline):
            return await client.chat.completions.create(**request)
    except TimeoutError:
        raise NoAnswer(f"no answer within {deadline:g} s") from None
    except (OpenAIError, ValueError) as error:  # ValueError: a body that is no JSON
        raise NoAnswer(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from None


def choice_of(response: Any) -> Any | None:
    """The first choice of a chat completion, with a message; None where `response` is none (the library does not check)."""
    try:
        choice = response.choices[0]
        return None if choice.message is None else choice
    except (AttributeError, IndexError, TypeError):
        return None
