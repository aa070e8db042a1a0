"""`judge` (optional): a model behind an OpenAI-compatible endpoint rates how consistent a verdict is with the images.

Needs the extra `judge` (openai, pillow). The endpoint may be a local server of an open model or a hosted one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

from rewards_fn.judge_prompt import messages_for, read_consistency
from spatial_edit_reward.checks import score_range_per_row
from spatial_edit_reward.inference.endpoint import NoResponse, complete, first_choice, message_text, open_client
from spatial_edit_reward.parser import Completion, completion_text, parse_or_none
from spatial_edit_reward.schema import DEFAULT_SCORE_RANGE, ScoreRange, Task

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What became of one request: `value` in 0..1 where there is one, else `reason`, in words."""

    kind: Literal["answered", "cached", "failed", "unreadable"]
    value: float | None = None
    reason: str = ""


def _read_cache(file: Path) -> float | None:
    """The number kept in `file`; None where there is no such file or it does not hold one."""
    try:
        return read_consistency(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def _write_cache(file: Path, value: float) -> None:
    """Writes `file` in one step: other processes may read and write the same cache."""
    with tempfile.NamedTemporaryFile("w", dir=file.parent, suffix=".tmp", delete=False, encoding="utf-8") as temporary:
        json.dump({"consistency": value}, temporary)
    os.replace(temporary.name, file)


async def _send(client: Any, request: Mapping[str, Any], deadline: float) -> Outcome:
    """Sends `request`, with the client's retries, and reads the answer; never longer than `deadline` seconds."""
    try:
        choice = first_choice(await complete(client, request, deadline))
    except NoResponse as error:
        return Outcome("failed", reason=str(error))
    if choice is None:
        return Outcome("unreadable", reason="not a chat completion")
    answer = getattr(choice.message, "content", None)
    value = read_consistency(message_text(choice.message))
    return Outcome("answered", value) if value is not None else Outcome("unreadable", reason=f"answer {answer!r:.80}")


async def judge(
    completions: Sequence[Completion],
    images: Sequence[Sequence[Image.Image]],
    instruction: Sequence[str | None],
    task: Sequence[Task],
    *,
    model: str,
    base_url: str,
    api_key_env: str = "OPENAI_API_KEY",
    concurrency: int = 16,
    deadline: float = 120.0,
    retries: int = 5,
    cache: str | None = "~/.cache/spatial-edit-reward/judge",
    extra_body: Mapping[str, Any] | None = None,
    score_range: ScoreRange | Sequence[ScoreRange] = DEFAULT_SCORE_RANGE,
    log_metric: Callable[[str, float], None] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """How consistent `model` finds each verdict with its images, boxes drawn, and with its instruction; 0..1.

    Args:
        completions: a text or a TRL message list per row.
        images: per row, the source first where the task is "sc", the edited image last.
        instruction, task: of each row; the instruction may be None for "pq".
        model, base_url: as the endpoint names them, such as "http://localhost:8000/v1".
        api_key_env: the environment variable with the key; where it is not set, none is needed.
        concurrency: requests under way at once, at least 1.
        deadline: seconds for one request from its start, all retries included; waiting for its turn does not count.
        retries: of a request, after connection errors and the statuses 408, 409, 429 and 5xx, with growing pauses.
        cache: folder of one small file per request with a readable answer; None: no cache.
        extra_body: further fields of the request, such as `max_completion_tokens` or another `temperature` than 0.
        score_range: (low, high) of a score, for all rows or one per row: part of the judge's prompt.
        log_metric: gets the shares of completions "judge/failed", "judge/unreadable" and "judge/cached".

    Returns:
        None where there is no response or its answer is not readable; 0 for an unparsed completion, without a request.

    Raises:
        ValueError: a number out of range. OSError: the cache folder cannot be made.

    >>> endpoint = {"model": "m", "base_url": "http://localhost:8000/v1", "cache": None}
    >>> asyncio.run(judge(["no verdict"], images=[[]], instruction=["Remove the cup."], task=["sc"], **endpoint))
    [0.0]
    """
    if concurrency < 1 or deadline <= 0 or retries < 0:
        raise ValueError("judge: concurrency must be at least 1, deadline above 0 and retries at least 0")
    folder = None if cache is None else Path(cache).expanduser()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    ranges = score_range_per_row(score_range, len(completions))

    def make_requests() -> list[tuple[str, dict[str, Any]] | None]:
        """Of each completion its request with a key, the same for the same request; None where it is unparsed."""
        requests: list[tuple[str, dict[str, Any]] | None] = []
        for completion, shown, order, kind, limits in zip(completions, images, instruction, task, ranges, strict=True):
            verdict = parse_or_none(completion, kind)
            if verdict is None:
                requests.append(None)
                continue
            messages = messages_for(shown, order, kind, verdict, completion_text(completion), limits)
            request = {"model": model, "messages": messages, "temperature": 0, "extra_body": dict(extra_body or {})}
            key = hashlib.sha256(json.dumps([base_url, request], sort_keys=True).encode()).hexdigest()
            requests.append((key, request))
        return requests

    # In a thread: drawing and encoding would hold up whatever else runs on the trainer's event loop.
    requests = await asyncio.to_thread(make_requests)
    turns = asyncio.Semaphore(concurrency)

    async def outcome_of(key: str, request: Mapping[str, Any]) -> Outcome:
        file = None if folder is None else folder / f"{key}.json"
        if file is not None and (value := _read_cache(file)) is not None:
            return Outcome("cached", value)
        async with turns:
            outcome = await _send(client, request, deadline)
        if file is not None and outcome.value is not None:
            _write_cache(file, outcome.value)
        return outcome

    # A client belongs to the event loop it is made on, so each call has its own.
    async with open_client(base_url, api_key_env, retries, deadline) as client, asyncio.TaskGroup() as group:
        distinct = dict(request for request in requests if request is not None)
        tasks = {key: group.create_task(outcome_of(key, request)) for key, request in distinct.items()}
    outcomes = [None if request is None else tasks[request[0]].result() for request in requests]
    _report(
        [outcome for outcome in outcomes if outcome is not None], len(outcomes), f"{model} at {base_url}", log_metric
    )
    return [0.0 if outcome is None else outcome.value for outcome in outcomes]


def _report(
    outcomes: Sequence[Outcome], count: int, endpoint: str, log_metric: Callable[[str, float], None] | None
) -> None:
    """Logs the shares of `count` completions by kind, and one warning where some have no number."""
    counts = Counter(outcome.kind for outcome in outcomes)
    if log_metric is not None:
        for kind in ("failed", "unreadable", "cached"):
            log_metric(f"judge/{kind}", counts[kind] / max(1, count))
    reasons = [outcome.reason for outcome in outcomes if outcome.value is None]
    if reasons:
        numbers = (
            f"{len(reasons)} of {count} completions ({counts['failed']} failed, {counts['unreadable']} unreadable)"
        )
        logger.warning("judge %s: no number for %s; the first: %s", endpoint, numbers, reasons[0])
