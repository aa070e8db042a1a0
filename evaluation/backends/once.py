"""What every backend shares: pictures are fitted, questions that would be sent alike are sent once, and the bill is shown."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence

from data.images import fit
from evaluation.generate import in_batches
from evaluation.questions import Ask, Question, Reply
from verdict import Spec


def sent_alike(question: Question, spec: Spec, temperature: float) -> bytes:
    """The same for questions that are one request: their text and pictures, and the sample where samples differ."""
    digest = hashlib.blake2b(spec.prompt(question.task, question.instruction).encode(errors="replace"), digest_size=16)
    for image in question.images:
        digest.update(f"{image.mode}{image.size}".encode())
        digest.update(image.tobytes())
    digest.update(str(question.sample if temperature > 0 else 0).encode())
    return digest.digest()


def once(ask: Ask, spec: Spec, temperature: float, part: int, prices: tuple[float, float] | None = None) -> Ask:
    """`ask` with pictures fitted to the spec, each request sent once; answers are remembered for later calls.

    `part`: questions looked at at a time. The tokens of a request are counted in the reply to its first question, the others
    say 0. At the end of a call one line on stderr says what was sent and, with `prices` (dollars per million prompt and
    completion tokens), what it cost.
    """
    known: dict[bytes, Reply] = {}

    def asked(questions: Sequence[Question]) -> Iterator[tuple[Question, Reply]]:
        sent = answered = prompt_tokens = completion_tokens = 0
        for places in in_batches(len(questions), part):
            alike: dict[bytes, list[Question]] = {}
            for place in places:
                question = questions[place]
                fitted = question._replace(images=[fit(image, spec.pixels) for image in question.images])
                key = sent_alike(fitted, spec, temperature)
                if key in known:
                    answered += 1
                    yield question, known[key]
                else:
                    # first what is sent, then the questions that it answers
                    alike.setdefault(key, [fitted]).append(question)
            keys = {id(group[0]): key for key, group in alike.items()}
            sent += len(alike)
            for fitted, reply in ask([group[0] for group in alike.values()]):
                key = keys[id(fitted)]
                prompt_tokens += reply.prompt_tokens
                completion_tokens += reply.completion_tokens
                known[key] = reply._replace(prompt_tokens=0, completion_tokens=0)
                first, *others = alike[key][1:]
                answered += 1 + len(others)
                yield first, reply
                for other in others:
                    yield other, known[key]
        said = f"{answered} of {len(questions)} questions answered by {sent} requests"
        said += f", {prompt_tokens:,} prompt and {completion_tokens:,} completion tokens"
        if prices is not None:
            said += f", ${cost(prompt_tokens, completion_tokens, prices):.4f}"
        print(said, file=sys.stderr)

    return asked


def cost(prompt_tokens: int, completion_tokens: int, prices: tuple[float, float]) -> float:
    """Dollars for the tokens at `prices`, dollars per million prompt and completion tokens."""
    return (prompt_tokens * prices[0] + completion_tokens * prices[1]) / 1e6
