"""The chat messages that ask for a verdict, and the one that answers with it: made here alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spatial_edit_reward.schema import Task, plain_text, render
from spatial_edit_reward.spec import Spec

IMAGES_OF_TASK: dict[str, int] = {"sc": 2, "pq": 1}


def prompt_messages(task: Task, instruction: str | None, spec: Spec, count: int | None = None) -> list[dict[str, Any]]:
    """The chat that asks for a verdict: one user turn, a placeholder for each image first, then the spec's prompt.

    `count`: how many images, where it is not the task's own number: benchmarks have rows with several sources.
    """
    images = [{"type": "image"} for _ in range(IMAGES_OF_TASK[task] if count is None else count)]
    return [{"role": "user", "content": [*images, {"type": "text", "text": spec.prompt(task, instruction)}]}]


def completion_messages(task: Task, reference: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The chat turn that answers with the reference's verdict, special tokens in it written as plain text."""
    return [{"role": "assistant", "content": [{"type": "text", "text": plain_text(render(task, reference))}]}]
