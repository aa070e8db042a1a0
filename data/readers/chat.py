"""What the conversation layouts share: a prompt, an answer and images, under any of the keys that public files use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data.cleaning.fixer import RowError
from data.readers.parts import index
from data.readers.raw import Picture, Raw, read_json
from data.recipe import Source
from spatial_edit_reward import TASKS, Task
from spatial_edit_reward.errors import UserError

PLACEHOLDER = "<image>"
ROLES = {"human": "user", "gpt": "assistant"}


def completion_text(content: Any) -> str:
    """A message's content as text: a string, or the text parts of a typed list. Raises RowError for anything else."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return "".join(part["text"] for part in content if isinstance(part.get("text"), str))
    raise RowError("not_a_row", f"a message's content is {type(content).__name__}, not text or a typed list")


def conversation(row: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(prompt, answer) of a row's `messages` or `conversations`, placeholders of images removed; None for what is not there.

    A system turn stands before the prompt. Raises RowError for more than one turn each, and for messages of a foreign shape.
    """
    turns = row.get("messages") or row.get("conversations") or []
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise RowError("not_a_row", "its messages are no list of objects")
    said: dict[str, list[str]] = {"system": [], "user": [], "assistant": []}
    for turn in turns:
        role = turn.get("role", turn.get("from"))
        role = ROLES.get(role, role) if isinstance(role, str) else role
        if role not in said:
            raise RowError("not_a_row", f"a message has the role {role!r}")
        said[role].append(completion_text(turn.get("content", turn.get("value"))))
    if any(len(texts) > 1 for texts in said.values()):
        raise RowError("not_a_row", "more than one turn of a role")
    prompt = "\n\n".join(said["system"] + said["user"]).replace(PLACEHOLDER, "").strip()
    return prompt or None, "".join(said["assistant"]) or None


def pictures(row: Mapping[str, Any], find: Callable[[str], Picture]) -> tuple[Picture, ...]:
    """The row's images: `image` or `images`, as a string, a list, {"path"} or {"bytes"}. Raises RowError for another shape."""
    value = row.get("images", row.get("image"))
    entries = value if isinstance(value, list) else [] if value in (None, "") else [value]
    found: list[Picture] = []
    for entry in entries:
        if isinstance(entry, dict):
            entry = entry.get("bytes") or entry.get("path")
        if isinstance(entry, str) and entry:
            found.append(find(entry))
        elif isinstance(entry, bytes):
            found.append(entry)
        else:
            raise RowError("not_a_row", f"an image is given as {type(entry).__name__}, not as a path or bytes")
    return tuple(found)


def finder(source: Source) -> Callable[[str], Picture]:
    """What turns a path in a row into a place to read: a file in the source's image folder, or a slice of its tar parts.

    What it returns raises RowError for a path that leaves the folder or is in no part.
    """
    root = source.images or Path(source.path).parent
    parts = [] if root.is_dir() else sorted(file for file in root.parent.glob(f"{root.name}*") if file.is_file())
    if not parts and not root.is_dir():
        raise UserError(f"source {source.name!r}: images: {root}: no such folder, and no tar part whose name starts so")
    if parts:
        names = index(tuple(parts))

        def in_parts(path: str) -> Picture:
            if os.path.normpath(path) not in names:
                raise RowError("image_missing", f"{path} is in none of {parts[0].name}, ...")
            return names[os.path.normpath(path)]

        return in_parts
    folder = os.path.abspath(root)

    def in_folder(path: str) -> Picture:
        full = os.path.normpath(os.path.join(folder, path))
        if "\0" in path or not full.startswith(folder + os.sep):
            raise RowError("image_outside", f"{path!r} leaves {root}")
        return Path(full)

    return in_folder


def task_of(row: Mapping[str, Any]) -> Task | None:
    """The task that a row's `solution` names; None where there is none. Raises RowError for a foreign one."""
    said = row.get("solution", row.get("task"))
    if said is not None and said not in TASKS:
        raise RowError("not_a_row", f"solution {said!r} is not one of {', '.join(TASKS)}")
    return said


def text_at(row: Mapping[str, Any], key: str) -> str | None:
    """The text or number at `key` as text, None where there is none. Raises RowError for anything else."""
    value = row.get(key)
    if value is not None and not isinstance(value, str | int):
        raise RowError("not_a_row", f"{key} is {type(value).__name__}")
    return None if value in (None, "") else str(value)


def chat_rows(source: Source, regions_known: Callable[[Mapping[str, Any]], bool]) -> Iterator[Raw]:
    """Every row of a file of conversations; `regions_known` tells of a row whether its verdict is one that names regions."""
    find = finder(source)
    for place, number, row in read_json(Path(source.path)):
        identity = str(number)
        try:
            if isinstance(row, RowError):
                raise row
            if not isinstance(row, dict):
                raise RowError("not_a_row", f"it is a {type(row).__name__}, not an object")
            identity = text_at(row, "id") or identity
            prompt, verdict = conversation(row)
            yield Raw(
                place=place,
                id=identity,
                images=pictures(row, find),
                task=task_of(row),
                prompt=prompt,
                instruction=text_at(row, "instruction"),
                verdict=verdict,
                group=text_at(row, "group"),
                regions_known=regions_known(row),
            )
        except RowError as fault:
            yield Raw(place=place, id=identity, fault=fault)
