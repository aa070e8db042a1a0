"""What has to be asked: every sample's candidates, shuffled, as questions that are named by their prompt and pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, List
from datasets import Image as ImageFeature
from PIL import Image
from tqdm import tqdm

from evaluation.benchmarks.read import Sample
from evaluation.benchmarks.tables import Picture
from spatial_edit_reward import TASKS, Spec, Task
from spatial_edit_reward.images import ImageError, encode, fit, read_bytes, read_picture
from spatial_edit_reward.inference.request import Request
from spatial_edit_reward.inference.store import Name

GREY = (128, 128, 128)
Load = Callable[[], Sequence[Picture | None]]


@dataclass
class Plan:
    """`rows`: what the result file's head holds, samples with their candidates' question keys, or held-out rows with theirs.

    `faults`: id -> why it cannot be asked; filled further when a picture turns out to be unreadable.
    """

    rows: list[dict[str, Any]]
    asked: dict[str, tuple[Task, str, Load]]
    spec: Spec
    faults: dict[str, str] = field(default_factory=dict)

    def question(self, name: Name) -> Request | None:
        """The question `name` with its pictures fitted; None, with a fault noted, where a picture cannot be read."""
        key, sample = name
        task, instruction, load = self.asked[key]
        try:
            images = [fit(_opened(picture), self.spec.pixels) for picture in load()]
        except ImageError as error:
            self.faults[key] = error.detail
            return None
        return Request(key, task, instruction, images, sample)


def _opened(picture: Picture | None) -> Image.Image:
    if picture is None:
        raise ImageError("image_missing", "no picture there")
    return read_picture(picture)[0]


def question_key(task: Task, instruction: str, pictures: Sequence[Picture | None], spec: Spec) -> str:
    """A hash of the prompt and of the pictures' files. Raises ImageError where one is missing."""
    digest = hashlib.blake2b(spec.prompt(task, instruction).encode(errors="replace"), digest_size=12)
    for picture in pictures:
        if picture is None:
            raise ImageError("image_missing", "no picture there")
        content = read_bytes(picture) if isinstance(picture, Path) else picture
        digest.update(hashlib.blake2b(content, digest_size=16).digest())
    return digest.hexdigest()


def plan_samples(samples: Sequence[Sample], spec: Spec, seed: int) -> Plan:
    """The plan of a ranking benchmark: candidates of each sample in an order drawn from `seed` and the sample's id.

    A candidate without its pictures keeps its place, with a null for each question, and is noted in `faults`.
    """
    plan = Plan([], {}, spec)
    for sample in tqdm(samples, desc="pictures", unit="sample", delay=2):
        digest = hashlib.blake2b(sample.id.encode(), digest_size=8).digest()
        order = np.random.default_rng([seed, int.from_bytes(digest)]).permutation(len(sample.candidates))
        sources = sample.sources()
        candidates = []
        for place in map(int, order):
            candidate = sample.candidates[place]
            edited = candidate.picture()
            row: dict[str, Any] = {"id": candidate.id, "place": place, "rank": candidate.rank}
            for task in TASKS:
                shown = [*sources, edited] if task == "sc" else [edited]
                try:
                    key = question_key(task, sample.instruction, shown, spec)
                except ImageError as error:
                    plan.faults[f"{sample.id} {candidate.id}"] = error.detail
                    row[task] = None
                    continue
                row[task] = key
                plan.asked.setdefault(key, (task, sample.instruction, partial(_pictures, sample, place, task)))
            candidates.append(row)
        try:
            group = question_key("sc", sample.instruction, sources, spec)
        except ImageError:
            group = sample.id
        about = {"id": sample.id, "group": group, "category": sample.category, "dimension": sample.dimension}
        plan.rows.append(about | {"sources": sample.source_count, "extra": sample.extra, "candidates": candidates})
    return plan


def _pictures(sample: Sample, place: int, task: Task) -> list[Picture | None]:
    return [*(sample.sources() if task == "sc" else ()), sample.candidates[place].picture()]


def grey_picture(spec: Spec) -> bytes:
    """The constant that stands for every picture in a blind run: grey, of the largest square that the spec allows."""
    side = int(spec.pixels.max**0.5)
    return encode(fit(Image.new("RGB", (side, side), GREY), spec.pixels), "png")


def plan_heldout(rows: Dataset, spec: Spec, blind: bool) -> Plan:
    """The plan of the canonical rows; `blind`: every picture replaced by the same grey one."""
    plan = Plan([], {}, spec)
    grey = grey_picture(spec)
    encoded = rows.cast_column("images", List(ImageFeature(decode=False)))
    for place, row in enumerate(encoded):
        shown: list[Picture | None] = [grey if blind else image["bytes"] for image in row["images"]]
        key = question_key(row["task"], row["instruction"], shown, spec)
        about = {name: row[name] for name in ("id", "task", "group", "instruction", "reference")}
        plan.rows.append({**about, "key": key})
        load = partial(list, shown) if blind else partial(_row_pictures, encoded, place)
        plan.asked.setdefault(key, (row["task"], row["instruction"], load))
    return plan


def _row_pictures(rows: Dataset, place: int) -> list[Picture | None]:
    return [image["bytes"] for image in rows[place]["images"]]


def names(plan: Plan, samples: int) -> list[Name]:
    """Every question and sample number, candidates of one source together."""
    return [(key, sample) for key in plan.asked for sample in range(samples)]


def failures(plan: Plan, answered: Mapping[Name, Any], samples: int) -> list[str]:
    """One line for each candidate or row without all of its verdicts: its id and why."""
    found = []
    for row in plan.rows:
        for one in row.get("candidates", [row]):
            keys = [one.get(task) for task in TASKS] if "candidates" in row else [one["key"]]
            name = f"{row['id']} {one['id']}" if one is not row else row["id"]
            if all(key and (key, number) in answered for key in keys for number in range(samples)):
                continue
            why = plan.faults.get(name) or next((plan.faults[key] for key in keys if key in plan.faults), None)
            found.append(f"{name}: {why or 'no answer'}")
    return found
