"""Completions of a model behind an OpenAI-compatible endpoint, hosted or a server of one's own, several requests at once."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from spatial_edit_reward import Spec
from spatial_edit_reward.draw import image_part
from spatial_edit_reward.inference.backends import Endpoint
from spatial_edit_reward.inference.endpoint import NoResponse, complete, first_choice, open_client
from spatial_edit_reward.inference.request import Backend, Request, Response, Sampling

logger = logging.getLogger(__name__)
SHOWN_REASONS, SHOWN_KEYS = 5, 10
Failed = str  # why there is no response


def request_body(
    request: Request, model: str, spec: Spec, sampling: Sampling | None, endpoint: Endpoint
) -> dict[str, Any]:
    """The chat completion request: one user turn, the images first, without loss, then the spec's prompt."""
    # Half of a surrogate pair can be held by a Python string and not by a request.
    text = spec.prompt(request.task, request.instruction).encode(errors="replace").decode()
    content = [*(image_part(image) for image in request.images), {"type": "text", "text": text}]
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": content}]}
    body["temperature"] = sampling.temperature if sampling else 0.0
    if sampling and sampling.top_p < 1:
        body["top_p"] = sampling.top_p
    # Own servers know the one name, hosted models that think first only the other.
    if "max_completion_tokens" not in endpoint.extra_body:
        body["max_tokens"] = spec.max_new_tokens
    return body | {"extra_body": dict(endpoint.extra_body)}


def read_response(completion: Any) -> Response | None:
    """The response that a chat completion holds, with no text after a refusal; None where `completion` is none."""
    choice = first_choice(completion)
    text = getattr(choice.message, "content", None) if choice is not None else None
    if choice is None or not isinstance(text, str | None):
        return None
    usage = getattr(completion, "usage", None)
    counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    prompt, new = (count if isinstance(count, int) else 0 for count in counts)
    return Response(text or "", getattr(choice, "finish_reason", None) == "length", None, prompt, new)


def open_openai(model: str, spec: Spec, concurrency: int, sampling: Sampling | None, endpoint: Endpoint) -> Backend:
    """`model` at the endpoint of OPENAI_BASE_URL, `concurrency` requests at once.

    A request without a response after every retry is left out, and a warning says why, with its key.
    """

    async def send(request: Request, client: Any) -> tuple[Request, Response | Failed]:
        body = await asyncio.to_thread(request_body, request, model, spec, sampling, endpoint)
        try:
            response = read_response(await complete(client, body, endpoint.deadline))
        except NoResponse as error:
            return request, str(error)
        return request, "not a chat completion" if response is None else response

    def generate(requests: Iterable[Request]) -> Iterator[tuple[Request, Response]]:
        failed: dict[str, list[str]] = defaultdict(list)
        remaining = iter(requests)
        with asyncio.Runner() as runner:
            client = open_client(None, "OPENAI_API_KEY", endpoint.retries, endpoint.deadline)
            in_flight: set[asyncio.Task[tuple[Request, Response | Failed]]] = set()
            while True:
                for request in islice(remaining, concurrency - len(in_flight)):
                    in_flight.add(runner.get_loop().create_task(send(request, client)))
                if not in_flight:
                    break
                done, in_flight = runner.run(asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED))
                for request, response in (task.result() for task in done):
                    if isinstance(response, Failed):
                        failed[response].append(request.key)
                    else:
                        yield request, response
            runner.run(client.close())
        _warn(failed, f"{model} at {client.base_url}")

    return generate


def _warn(failed: dict[str, list[str]], name: str) -> None:
    """One warning for each of the most frequent reasons, with keys."""
    by_count = sorted(failed.items(), key=lambda item: -len(item[1]))
    for reason, keys in by_count[:SHOWN_REASONS]:
        more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
        logger.warning("%s: no response for %s%s: %s", name, ", ".join(keys[:SHOWN_KEYS]), more, reason)
    if rest := sum(len(keys) for _, keys in by_count[SHOWN_REASONS:]):
        logger.warning("%s: no response for %d more, for other reasons", name, rest)
