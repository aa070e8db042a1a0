"""What the conversation layouts share: a prompt, an answer and images, under any of the keys that public files use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data.cleaning.fixer import RowError
from data.readers.parts import find_parts, index_tar
from data.readers.raw import ImageSource, Raw, image_folder, read_json, read_rows, text_at
from data.recipe import Source
from spatial_edit_reward import TASKS, Task
from spatial_edit_reward.errors import UserError

PLACEHOLDER = "<image>"
ROLES = {"human": "user", "gpt": "assistant"}


def message_text(content: Any) -> str:
    """A message's content as text: a string, or the text parts of a typed list. Raises RowError for anything else."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return "".join(part["text"] for part in content if isinstance(part.get("text"), str))
    raise RowError("not_a_row", f"a message's content is {type(content).__name__}, not text or a typed list")


def conversation(row: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(prompt, answer) of a row's `messages` or `conversations`, placeholders of images removed; None for what is not there.

    A system turn stands before the prompt. Raises RowError for more than one turn each, and for messages of another shape.
    """
    turns = row.get("messages") or row.get("conversations") or []
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise RowError("not_a_row", "its messages are no list of objects")
    texts: dict[str, str] = {}
    for turn in turns:
        role = turn.get("role", turn.get("from"))
        role = ROLES.get(role, role) if isinstance(role, str) else role
        if role not in ("system", "user", "assistant"):
            raise RowError("not_a_row", f"a message has the role {role!r}")
        if role in texts:
            raise RowError("not_a_row", "more than one turn of a role")
        texts[role] = message_text(turn.get("content", turn.get("value")))
    prompt = "\n\n".join(texts[role] for role in ("system", "user") if role in texts)
    return prompt.replace(PLACEHOLDER, "").strip() or None, texts.get("assistant") or None


def read_images(row: Mapping[str, Any], find: Callable[[str], ImageSource]) -> tuple[ImageSource, ...]:
    """The row's images: `image` or `images`, as a string, a list, {"path"} or {"bytes"}. Raises RowError for another shape."""
    value = row.get("images", row.get("image"))
    entries = value if isinstance(value, list) else [] if value in (None, "") else [value]
    images: list[ImageSource] = []
    for entry in entries:
        if isinstance(entry, dict):
            entry = entry.get("bytes") or entry.get("path")
        if isinstance(entry, str) and entry:
            images.append(find(entry))
        elif isinstance(entry, bytes):
            images.append(entry)
        else:
            raise RowError("not_a_row", f"an image is given as {type(entry).__name__}, not as a path or bytes")
    return tuple(images)


def image_finder(source: Source) -> Callable[[str], ImageSource]:
    """What turns a path in a row into an image to read: a file in the source's image folder, or a slice of its tar parts.

    What it returns raises RowError for a path that leaves the folder or is in no part.
    """
    root = source.images or Path(source.path).parent
    if root.is_dir():
        return image_folder(root)
    parts = find_parts(root)
    if not parts:
        raise UserError(f"source {source.name!r}: images: {root}: no such folder, and no tar part whose name starts so")
    slices = index_tar(parts)

    def find(path: str) -> ImageSource:
        if os.path.normpath(path) not in slices:
            raise RowError("image_missing", f"{path} is in none of {parts[0].name}, ...")
        return slices[os.path.normpath(path)]

    return find


def read_task(row: Mapping[str, Any]) -> Task | None:
    """The task that a row's `solution` or `task` names; None where there is none. Raises RowError for another value."""
    key = "solution" if "solution" in row else "task"
    task = row.get(key)
    if task is not None and task not in TASKS:
        raise RowError("not_a_row", f"{key} {task!r} is not one of {', '.join(TASKS)}")
    return task


def chat_rows(source: Source, regions_known: Callable[[str], bool]) -> Iterator[Raw]:
    """Every row of a file of conversations; `regions_known` tells of an answer whether it is a verdict that names regions."""
    find = image_finder(source)

    def read(row: Any) -> Raw:
        if not isinstance(row, dict):
            raise RowError("not_a_row", f"it is a {type(row).__name__}, not an object")
        prompt, verdict = conversation(row)
        return Raw(
            id=text_at(row, "id") or "",
            images=read_images(row, find),
            task=read_task(row),
            prompt=prompt,
            instruction=text_at(row, "instruction"),
            verdict=verdict,
            group=text_at(row, "group"),
            regions_known=regions_known(verdict or ""),
        )

    return read_rows(read_json(Path(source.path)), read)
