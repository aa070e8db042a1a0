"""Chat completions from an OpenAI-compatible endpoint: for the judge, and for models that are evaluated there. Needs openai."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError

from spatial_edit_reward.errors import one_line

MAX_BODY = 8 * 2**20  # bytes of a response's body, decompressed


class NoResponse(Exception):  # noqa: N818 - it may be nobody's error
    """A request came to nothing, after every retry; the message says why."""


class BoundedClient(DefaultAsyncHttpxClient):
    """Reads at most MAX_BODY bytes of a body, decompressed, whatever a server sends; more is a failed try."""

    async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        response = await super().send(request, stream=True, **options)
        if stream:
            return response
        body = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_BODY:
                    raise NoResponse(f"a body of more than {MAX_BODY} bytes")
        finally:
            await response.aclose()
        encoding = ("content-encoding", "content-length", "transfer-encoding")
        headers = {name: value for name, value in response.headers.items() if name not in encoding}
        return type(response)(response.status_code, headers=headers, content=bytes(body), request=request)


def open_client(base_url: str | None, api_key_env: str, retries: int, deadline: float) -> AsyncOpenAI:
    """A client of the endpoint; None: the one that OPENAI_BASE_URL names, else OpenAI's. It belongs to one event loop.

    `api_key_env`: the environment variable with the key; where it is not set, none is needed. `retries`: of a request, after
    connection errors and the statuses 408, 409, 429 and 5xx, with growing pauses. `deadline`: seconds for one try.
    """
    key = os.environ.get(api_key_env) or "none"  # the library insists on a key
    client = BoundedClient(timeout=deadline)
    return AsyncOpenAI(base_url=base_url, api_key=key, max_retries=retries, timeout=deadline, http_client=client)


async def complete(client: AsyncOpenAI, request: Mapping[str, Any], deadline: float) -> Any:
    """The endpoint's response to a chat completion `request`, unchecked, within `deadline` seconds, all retries included.

    Raises NoResponse.
    """
    try:
        async with asyncio.timeout(deadline):
            return await client.chat.completions.create(**request)
    except TimeoutError:
        raise NoResponse(f"no response within {deadline:g} s") from None
    except (OpenAIError, ValueError, RecursionError) as error:  # a body that is no JSON, or nested too deep
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise NoResponse(f"{type(error).__name__}: {one_line(f'{error}{cause}')}") from None


def first_choice(completion: Any) -> Any | None:
    """The first choice of a chat completion, with a message; None where `completion` is none (the library does not check)."""
    try:
        choice = completion.choices[0]
        return None if choice.message is None else choice
    except (AttributeError, IndexError, TypeError):
        return None


def message_text(message: Any) -> str | None:
    """The text of a response's message, whole or in typed parts, "" where it is null; None where it has another shape."""
    content = getattr(message, "content", None)
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        content = "".join(part["text"] for part in content if isinstance(part.get("text"), str))
    return content or "" if isinstance(content, str | None) else None
