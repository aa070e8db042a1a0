"""What every backend shares: pictures are fitted, what would be sent alike is sent once, and it is counted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spatial_edit_reward import Spec
from spatial_edit_reward.images import fit
from spatial_edit_reward.inference.generation import in_batches
from spatial_edit_reward.inference.request import Backend, Request, Response


@dataclass
class Usage:
    """What was asked, answered and sent so far, and the tokens of the answers."""

    questions: int = 0
    answered: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def line(self, prices: tuple[float, float] | None) -> str:
        """The usage in words; with `prices` (dollars per million prompt and completion tokens) what it costs."""
        said = f"{self.answered} of {self.questions} questions answered by {self.requests} requests"
        said += f", {self.prompt_tokens:,} prompt and {self.completion_tokens:,} completion tokens"
        if prices is None:
            return said
        return f"{said}, ${(self.prompt_tokens * prices[0] + self.completion_tokens * prices[1]) / 1e6:.4f}"


def request_key(question: Request, spec: Spec, temperature: float) -> bytes:
    """The same for questions that are one request: their text and pictures, and the sample where samples differ."""
    digest = hashlib.blake2b(spec.prompt(question.task, question.instruction).encode(errors="replace"), digest_size=16)
    for image in question.images:
        digest.update(f"{image.mode}{image.size}".encode())
        digest.update(image.tobytes())
    digest.update(str(question.sample if temperature > 0 else 0).encode())
    return digest.digest()


def once(ask: Backend, spec: Spec, temperature: float, part: int, usage: Usage) -> Backend:
    """`ask` with pictures fitted to the spec, each request sent once; answers are remembered for later calls.

    `part`: questions looked at at a time. The tokens of a request are in the reply to its first question, the others say 0.
    `usage`: is kept up to date.
    """
    known: dict[bytes, Response] = {}

    def asked(questions: Sequence[Request]) -> Iterator[tuple[Request, Response]]:
        usage.questions += len(questions)
        for places in in_batches(len(questions), part):
            alike: dict[bytes, list[Request]] = {}
            for place in places:
                question = questions[place]
                fitted = question._replace(images=[fit(image, spec.pixels) for image in question.images])
                key = request_key(fitted, spec, temperature)
                if key in known:
                    usage.answered += 1
                    yield question, known[key]
                else:
                    # first what is sent, then the questions that it answers
                    alike.setdefault(key, [fitted]).append(question)
            keys = {id(group[0]): key for key, group in alike.items()}
            usage.requests += len(alike)
            for fitted, reply in ask([group[0] for group in alike.values()]):
                key = keys[id(fitted)]
                usage.prompt_tokens += reply.prompt_tokens
                usage.completion_tokens += reply.completion_tokens
                known[key] = reply._replace(prompt_tokens=0, completion_tokens=0)
                first, *others = alike[key][1:]
                usage.answered += 1 + len(others)
                yield first, reply
                for other in others:
                    yield other, known[key]

    return asked
