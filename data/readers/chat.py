"""What the conversation layouts share: a prompt, an answer and images, under any of the keys that public files use."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data.cleaning.fixer import RowError
from data.readers.json_rows import read_json
from data.readers.parts import find_parts, index_tar
from data.readers.raw import ImageSource, Raw, image_folder, read_rows, text_at
from data.recipe import Source
from data.templates import common_start
from spatial_edit_reward import TASKS, Task
from spatial_edit_reward.errors import UserError

PLACEHOLDER = "<image>"
# In rows that were exported after Qwen's chat template.
EXPORTED_PLACEHOLDER = re.compile(r"<\|vision_start\|>(<\|image_pad\|>)*<\|vision_end\|>")
# Of ms-swift, for what stands in another key of the row.
SWIFT_PLACEHOLDERS = ("<bbox>", "<ref-object>")
# How PNG, JPEG, GIF and WebP begin in base64.
BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")
# The names of archives and of their parts.
ARCHIVE = re.compile(r"[._-]part[._-]?([a-z]{2}|\d+)$|\.(tar|tgz)(\.|$)")
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
    for placeholder in SWIFT_PLACEHOLDERS:
        if placeholder in texts.get("assistant", ""):
            raise RowError("not_a_row", f"its answer holds ms-swift's {placeholder}: write out what stands for it")
    prompt = "\n\n".join(texts[role] for role in ("system", "user") if role in texts)
    prompt = EXPORTED_PLACEHOLDER.sub("", prompt.replace(PLACEHOLDER, ""))
    return prompt.strip() or None, texts.get("assistant") or None


def images_of_messages(row: Mapping[str, Any]) -> list[Any]:
    """The images in typed contents: {"type": "image", "image" or "path" or "url": ...}, {"image_url": {"url": ...}}."""
    turns = row.get("messages") or row.get("conversations")
    contents = [turn.get("content", turn.get("value")) for turn in turns or () if isinstance(turn, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]
    values = [part[key] for part in parts for key in ("image", "path", "url", "image_url") if part.get(key)]
    return [value["url"] if isinstance(value, dict) and "url" in value else value for value in values]


def read_images(row: Mapping[str, Any], find: Callable[[str], ImageSource]) -> tuple[ImageSource, ...]:
    """The row's images: `images`, `image` or those in its messages, as strings, lists, {"path"} or {"bytes"}.

    A string is a path, or an image in base64. Raises RowError for another shape.
    """
    value = row.get("images", row.get("image"))
    if value in (None, "", []):
        value = images_of_messages(row)
    return tuple(read_image_entry(entry, find) for entry in (value if isinstance(value, list) else [value]))


def read_image_entry(entry: Any, find: Callable[[str], ImageSource]) -> ImageSource:
    """One image of a row. Raises RowError where it is neither a path nor an image."""
    if isinstance(entry, dict):
        if not {"bytes", "path"} & set(entry):
            raise RowError("not_a_row", f"an image is an object of {', '.join(entry)}, without bytes or path")
        entry = entry.get("bytes") or entry.get("path")
    if isinstance(entry, bytes):
        return entry
    if not isinstance(entry, str) or not entry:
        raise RowError("not_a_row", f"an image is given as {type(entry).__name__}, not as a path or bytes")
    if entry.startswith(("http://", "https://")):
        raise RowError("image_missing", f"addresses are not fetched: download {entry} and name the file")
    if entry.startswith("data:") or (entry.startswith(BASE64) and "." not in entry):
        try:
            return base64.b64decode(entry.partition(",")[2] if entry.startswith("data:") else entry, validate=True)
        except ValueError as error:
            raise RowError("bad_image", f"{entry[:40]}...: {error}") from None
    return find(entry.removeprefix("file://").replace("\\", "/"))


def image_finder(source: Source) -> Callable[[str], ImageSource]:
    """What turns a path in a row into an image to read: a file in the source's image folder, or a slice of its tar parts.

    The folder is by default the one that holds the rows. What it returns raises RowError for a path that leaves the folder or
    is in no part.
    """
    path = Path(source.path)
    root = source.images or (path if path.is_dir() else path.parent)
    if root.is_dir() or not source.images:
        packed = archive_in(root)
        return image_folder(root) if packed is None else folder_beside(root, packed)
    parts = find_parts(root)
    if not parts:
        raise UserError(f"source {source.name!r}: images: {root}: no such folder, and no tar part whose name starts so")
    slices = index_tar(parts)

    def find(path: str) -> ImageSource:
        if os.path.normpath(path) not in slices:
            held = f"; they hold e.g. {next(iter(slices))}" if slices else ""
            raise RowError("image_missing", f"{path} is in none of {parts[0].name}, ...{held}")
        return slices[os.path.normpath(path)]

    return find


def archive_in(folder: Path) -> Path | None:
    """What `images:` would be for the tar parts in `folder`; None where there are none."""
    names = sorted(file.name for file in folder.glob("*") if ARCHIVE.search(file.name) and file.is_file())
    start = common_start(names)
    return folder / (start if len(names) == 1 else re.sub(r"[a-z0-9]*$", "", start) or names[0]) if names else None


def folder_beside(root: Path, packed: Path) -> Callable[[str], ImageSource]:
    """`image_folder`, for a folder that also holds archives: an image that is not there may be in one of them."""
    find = image_folder(root)

    def checked(path: str) -> ImageSource:
        file = find(path)
        if not os.path.exists(file):  # a path that is too long is none
            raise RowError(
                "image_missing", f"{file} is not there; `images: {packed}` reads it from the archive beside it"
            )
        return file

    return checked


def read_task(row: Mapping[str, Any], foreign_keys: bool = False) -> Task | None:
    """The task that a row's `solution` or `task` names, `pq` as the published reward reads it: anywhere in the text.

    None where there is none, and for another value where these keys may be of somebody else's format; else a RowError.
    """
    key = "solution" if "solution" in row else "task"
    value = row.get(key)
    words = value.lower() if isinstance(value, str) else ""
    if "pq" in words:
        return "pq"
    if "sc" in re.findall("[a-z]+", words):
        return "sc"
    if value is not None and not foreign_keys:
        raise RowError("not_a_row", f"{key} {value!r} is not one of {', '.join(TASKS)}")
    return None


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
            task=read_task(row, foreign_keys=source.layout == "sharegpt"),
            prompt=prompt,
            instruction=text_at(row, "instruction"),
            verdict=verdict,
            group=text_at(row, "group"),
            regions_known=regions_known(verdict or ""),
        )

    return read_rows(read_json(Path(source.path)), read)
