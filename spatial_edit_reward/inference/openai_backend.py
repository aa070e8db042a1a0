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
from spatial_edit_reward.inference.endpoint import NoResponse, complete, first_choice, message_text, open_client
from spatial_edit_reward.inference.request import Backend, Request, Response, Sampling

logger = logging.getLogger(__name__)
SHOWN_REASONS, SHOWN_KEYS = 5, 10
# Where servers put a text that their reasoning parser took for thoughts, all of it if there is no </think>.
REASONING = ("reasoning_content", "reasoning")
Sent = tuple[Request, Response | None, str]  # and why there is no response, or an empty one


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


def read_response(completion: Any) -> tuple[Response | None, str]:
    """(the response that a chat completion holds, why it is empty); (None, the reason) where it holds none.

    An empty response is one of the model: it refused, a filter stopped it, or it ran out of tokens before its answer.
    """
    choice = first_choice(completion)
    text = message_text(choice.message) if choice is not None else None
    if choice is None or text is None:
        return None, "not a chat completion"
    ended = getattr(choice, "finish_reason", None)
    if not text and ended != "length" and any(getattr(choice.message, name, None) for name in REASONING):
        return None, f"its text is in {REASONING[0]}, not in content: start the server without a reasoning parser"
    usage = getattr(completion, "usage", None)
    counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    prompt, new = (count if isinstance(count, int) else 0 for count in counts)
    refused = ended == "content_filter" or getattr(choice.message, "refusal", None)
    reason = "" if text or not refused else "refused by a content filter or the model; counted as unparsed"
    return Response(text, ended == "length", None, prompt, new), reason


def open_openai(model: str, spec: Spec, concurrency: int, sampling: Sampling | None, endpoint: Endpoint) -> Backend:
    """`model` at the endpoint of OPENAI_BASE_URL, `concurrency` requests at once.

    A request without a response after every retry is left out, and a warning says why, with its key.
    """

    async def send(request: Request, client: Any) -> Sent:
        body = await asyncio.to_thread(request_body, request, model, spec, sampling, endpoint)
        try:
            return request, *read_response(await complete(client, body, endpoint.deadline))
        except NoResponse as error:
            return request, None, str(error)

    def generate(requests: Iterable[Request]) -> Iterator[tuple[Request, Response]]:
        failed: dict[str, list[str]] = defaultdict(list)
        empty: dict[str, list[str]] = defaultdict(list)
        remaining = iter(requests)
        with asyncio.Runner() as runner:
            client = open_client(None, "OPENAI_API_KEY", endpoint.retries, endpoint.deadline)
            in_flight: set[asyncio.Task[Sent]] = set()
            while True:
                for request in islice(remaining, concurrency - len(in_flight)):
                    in_flight.add(runner.get_loop().create_task(send(request, client)))
                if not in_flight:
                    break
                done, in_flight = runner.run(asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED))
                for request, response, reason in (task.result() for task in done):
                    if reason:
                        (failed if response is None else empty)[reason].append(request.key)
                    if response is not None:
                        yield request, response
            runner.run(client.close())
        _warn(failed, f"{model} at {client.base_url}: no response for")
        _warn(empty, f"{model} at {client.base_url}: an empty response for")

    return generate


def _warn(keys_of: dict[str, list[str]], what: str) -> None:
    """One warning for each of the most frequent reasons, with keys, after the words `what`."""
    by_count = sorted(keys_of.items(), key=lambda item: -len(item[1]))
    for reason, keys in by_count[:SHOWN_REASONS]:
        more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
        logger.warning("%s %s%s: %s", what, ", ".join(keys[:SHOWN_KEYS]), more, reason)
    if rest := sum(len(keys) for _, keys in by_count[SHOWN_REASONS:]):
        logger.warning("%s %d more, for other reasons", what, rest)
