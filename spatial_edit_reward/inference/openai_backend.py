"""Verdicts from a model behind an OpenAI-compatible endpoint, hosted or a server of one's own, several questions at once."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from spatial_edit_reward import Spec
from spatial_edit_reward.draw import picture_part
from spatial_edit_reward.inference.backends import Endpoint
from spatial_edit_reward.inference.endpoint import NoAnswer, choice_of, complete, open_client
from spatial_edit_reward.inference.request import Backend, Request, Response

logger = logging.getLogger(__name__)
SHOWN_REASONS, SHOWN_KEYS = 5, 10


def request_of(question: Request, model: str, spec: Spec, temperature: float, endpoint: Endpoint) -> dict[str, Any]:
    """The chat completion request: one user turn, the pictures first, without loss, then the spec's prompt."""
    # Half of a surrogate pair can be held by a Python string and not by a request.
    text = spec.prompt(question.task, question.instruction).encode(errors="replace").decode()
    content = [*(picture_part(image) for image in question.images), {"type": "text", "text": text}]
    request: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": content}]}
    request |= {"temperature": temperature, "extra_body": dict(endpoint.extra_body)}
    # Own servers know the one name, hosted models that think first only the other.
    if "max_completion_tokens" not in endpoint.extra_body:
        request["max_tokens"] = spec.max_new_tokens
    return request


def reply_in(response: Any) -> Response | None:
    """The reply that a chat completion holds; None where `response` is none. No text, as after a refusal, is an empty reply."""
    choice = choice_of(response)
    text = getattr(choice.message, "content", None) if choice is not None else None
    if choice is None or not isinstance(text, str | None):
        return None
    usage = getattr(response, "usage", None)
    counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (count if isinstance(count, int) else 0 for count in counts)
    return Response(text or "", getattr(choice, "finish_reason", None) == "length", None, prompt, completion)


def open_openai(model: str, spec: Spec, concurrency: int, temperature: float, endpoint: Endpoint) -> Backend:
    """Asks `model` at the endpoint of OPENAI_BASE_URL, `concurrency` questions at once.

    A question without an answer after every retry is left out, and a warning says why, with its key.
    """

    async def answer(question: Request, client: Any, places: asyncio.Semaphore) -> tuple[Request, Response | str]:
        async with places:
            request = await asyncio.to_thread(request_of, question, model, spec, temperature, endpoint)
            try:
                reply = reply_in(await complete(client, request, endpoint.deadline))
            except NoAnswer as reason:
                return question, str(reason)
        return question, "not a chat completion" if reply is None else reply

    def ask(questions: Sequence[Request]) -> Iterator[tuple[Request, Response]]:
        failed: dict[str, list[str]] = defaultdict(list)
        with asyncio.Runner() as runner:
            # Made within the loop that they belong to.
            async def begin() -> tuple[Any, set[asyncio.Task[tuple[Request, Response | str]]]]:
                client = open_client(None, "OPENAI_API_KEY", endpoint.retries, endpoint.deadline)
                places = asyncio.Semaphore(concurrency)
                return client, {asyncio.create_task(answer(question, client, places)) for question in questions}

            client, left = runner.run(begin())
            while left:
                done, left = runner.run(asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED))
                for question, reply in (task.result() for task in done):
                    if isinstance(reply, str):
                        failed[reply].append(question.key)
                    else:
                        yield question, reply
            runner.run(client.close())
        _warn(failed, f"{model} at {client.base_url}")

    return ask


def _warn(failed: dict[str, list[str]], who: str) -> None:
    """One warning for each of the most frequent reasons, with keys."""
    for reason, keys in sorted(failed.items(), key=lambda item: -len(item[1]))[:SHOWN_REASONS]:
        more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
        logger.warning("%s: no answer to %s%s: %s", who, ", ".join(keys[:SHOWN_KEYS]), more, reason)
    rest = sum(map(len, failed.values())) - sum(sorted(map(len, failed.values()))[-SHOWN_REASONS:])
    if rest:
        logger.warning("%s: no answer to %d more, for other reasons", who, rest)
