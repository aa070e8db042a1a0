"""What every backend shares: images are fitted to the spec, requests that are the same are sent once, and usage is counted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from spatial_edit_reward import Spec
from spatial_edit_reward.images import fit
from spatial_edit_reward.inference.request import Backend, Request, Response


@dataclass
class Usage:
    """Requests so far: made, with a response, and sent; and the tokens of what was sent."""

    requests: int = 0
    responses: int = 0
    sent: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def summary(self, prices: tuple[float, float] | None) -> str:
        """The usage in words; with `prices` (USD per million prompt and completion tokens) what it costs."""
        text = f"{self.responses} responses for {self.requests} requests, {self.sent} of them sent"
        text += f", {self.prompt_tokens:,} prompt and {self.completion_tokens:,} completion tokens"
        if prices is None:
            return text
        return f"{text}, ${(self.prompt_tokens * prices[0] + self.completion_tokens * prices[1]) / 1e6:.4f}"


def request_key(request: Request, spec: Spec, temperature: float) -> bytes:
    """A hash of what is sent: the prompt, the images, and the sample where samples differ."""
    digest = hashlib.blake2b(spec.prompt(request.task, request.instruction).encode(errors="replace"), digest_size=16)
    for image in request.images:
        digest.update(f"{image.mode}{image.size}".encode())
        digest.update(image.tobytes())
    digest.update(str(request.sample if temperature > 0 else 0).encode())
    return digest.digest()


def deduplicated(backend: Backend, spec: Spec, temperature: float, usage: Usage) -> Backend:
    """`backend` with images fitted to the spec, the same request sent once; responses are remembered for later calls.

    The tokens are in the response to the first of equal requests, the others have 0. `usage` is kept up to date.
    """
    known: dict[bytes, Response] = {}

    def generate(requests: Iterable[Request]) -> Iterator[tuple[Request, Response]]:
        waiting: dict[bytes, list[Request]] = {}  # by what is sent: the requests that it answers
        repeated: list[tuple[Request, Response]] = []

        def to_send() -> Iterator[Request]:
            for request in requests:
                usage.requests += 1
                fitted = request._replace(images=[fit(image, spec.pixels) for image in request.images])
                key = request_key(fitted, spec, temperature)
                if key in known:
                    repeated.append((request, known[key]))
                elif key in waiting:
                    waiting[key].append(request)
                else:
                    usage.sent += 1
                    waiting[key] = [request]
                    yield fitted

        for fitted, response in backend(to_send()):
            key = request_key(fitted, spec, temperature)  # not by the caller's key, which two requests may share
            usage.prompt_tokens += response.prompt_tokens
            usage.completion_tokens += response.completion_tokens
            known[key] = response._replace(prompt_tokens=0, completion_tokens=0)
            first, *others = waiting.pop(key)
            repeated.extend((other, known[key]) for other in others)
            usage.responses += 1
            yield first, response
            while repeated:
                usage.responses += 1
                yield repeated.pop()
        usage.responses += len(repeated)
        yield from repeated

    return generate
