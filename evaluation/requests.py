"""What a model is asked: requests named by a hash of their prompt and images, whose images are opened when they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from spatial_edit_reward import TASKS, Spec, Task
from spatial_edit_reward.images import ImageError, fit, read_bytes, read_image
from spatial_edit_reward.inference.request import Request

EncodedImage = bytes | Path
Name = tuple[str, int]  # the key of a request, and the sample


@dataclass
class RequestPlan:
    """`rows`: for the header of a file of responses: samples whose candidates name their keys, or held-out rows with a key.

    `prompts`: key -> task, instruction, and what loads the images. `errors`: candidate or key -> why there is no request; more
    come when an image turns out to be unreadable.
    """

    spec: Spec
    rows: list[dict[str, Any]] = field(default_factory=list)
    prompts: dict[str, tuple[Task, str | None, Callable[[], Sequence[EncodedImage | None]]]] = field(
        default_factory=dict
    )
    errors: dict[str, str] = field(default_factory=dict)

    def names(self, samples: int) -> list[Name]:
        """Every key and sample number, candidates of one source together."""
        return [(key, sample) for key in self.prompts for sample in range(samples)]

    def request(self, name: Name) -> Request | None:
        """The request `name` with its images fitted; None, with an error noted, where an image cannot be read."""
        key, sample = name
        task, instruction, load = self.prompts[key]
        try:
            images = [fit(_open(image), self.spec.pixels) for image in load()]
        except ImageError as error:
            self.errors[key] = error.detail
            return None
        return Request(key, task, instruction, images, sample)

    def failures(self, responses: Mapping[Name, Any], samples: int) -> list[str]:
        """One line for each candidate or row without all of its responses: its id and why."""
        lines = []
        for row in self.rows:
            for candidate in row.get("candidates", [row]):
                name = row["id"] if candidate is row else f"{row['id']} {candidate['id']}"
                keys = [row["key"]] if candidate is row else [candidate[task] for task in TASKS]
                if not all(key and (key, number) in responses for key in keys for number in range(samples)):
                    errors = [self.errors[one] for one in (name, *keys) if one in self.errors]
                    lines.append(f"{name}: {errors[0] if errors else 'no response'}")
        return lines


def _open(image: EncodedImage | None) -> Image.Image:
    if image is None:
        raise ImageError("image_missing", "no image there")
    return read_image(image)[0]


def request_id(task: Task, instruction: str | None, images: Sequence[EncodedImage | None], spec: Spec) -> str:
    """A hash of the prompt and of the images' files. Raises ImageError where one is missing."""
    digest = hashlib.blake2b(spec.prompt(task, instruction).encode(errors="replace"), digest_size=12)
    for image in images:
        if image is None:
            raise ImageError("image_missing", "no image there")
        content = read_bytes(image) if isinstance(image, Path) else image
        digest.update(hashlib.blake2b(content, digest_size=16).digest())
    return digest.hexdigest()
