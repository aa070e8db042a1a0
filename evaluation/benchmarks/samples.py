"""What a benchmark's rows become: samples with candidates, and the requests about them, candidates shuffled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation.benchmarks import load_benchmark
from evaluation.requests import EncodedImage, RequestPlan, request_id
from spatial_edit_reward import TASKS, Spec, Task
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.images import ImageError


@dataclass(frozen=True)
class Candidate:
    """One edit: its id in result files, and its true rank (0 best; equal: people saw a tie)."""

    id: str
    rank: int
    image: Callable[[], EncodedImage | None]


@dataclass(frozen=True)
class Sample:
    """What people ranked: candidates of the same sources and instruction, as stored. `extra`: what the official rule needs."""

    id: str
    category: str
    instruction: str
    candidates: tuple[Candidate, ...]
    sources: Callable[[], list[EncodedImage | None]]
    source_count: int = 1
    dimension: str = "overall"
    extra: str = ""

    def images(self, index: int, task: Task) -> list[EncodedImage | None]:
        """The images that are shown to judge candidate `index`."""
        return [*(self.sources() if task == "sc" else ()), self.candidates[index].image()]


def text_of(row: Mapping[str, Any], column: str, where: str) -> str:
    """The text in `column`. Raises UserError where there is none."""
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {column} must be a text, got {value!r}")
    return value


def read_samples(bench: str, source: str | None) -> list[Sample]:
    """The samples of a benchmark, from the Hub (`source` None) or a local copy. Raises UserError where it cannot be read."""
    samples: list[Sample] = load_benchmark(bench).read(source)
    ids = [sample.id for sample in samples]
    if not samples or len(set(ids)) < len(ids):
        raise UserError(f"{bench}: {'two samples with the same id' if samples else 'no sample found'}")
    return samples


def plan_samples(samples: Sequence[Sample], spec: Spec, seed: int) -> RequestPlan:
    """The requests of a ranking benchmark: candidates of each sample in an order drawn from `seed` and the sample's id.

    A candidate without its images keeps its row, with a null for each key, and is noted in `errors`.
    """
    plan = RequestPlan(spec)
    for sample in tqdm(samples, desc="images", unit="sample", delay=2):
        digest = hashlib.blake2b(sample.id.encode(), digest_size=8).digest()
        order = np.random.default_rng([seed, int.from_bytes(digest)]).permutation(len(sample.candidates))
        candidates = [_plan_candidate(plan, sample, index) for index in map(int, order)]
        try:
            group = request_id("sc", sample.instruction, sample.sources(), spec)
        except ImageError:
            group = sample.id
        row = {"id": sample.id, "group": group, "category": sample.category, "dimension": sample.dimension}
        plan.rows.append(row | {"sources": sample.source_count, "extra": sample.extra, "candidates": candidates})
    return plan


def _plan_candidate(plan: RequestPlan, sample: Sample, index: int) -> dict[str, Any]:
    candidate = sample.candidates[index]
    row: dict[str, Any] = {"id": candidate.id, "place": index, "rank": candidate.rank}
    for task in TASKS:
        load = partial(sample.images, index, task)
        try:
            row[task] = request_id(task, sample.instruction, load(), plan.spec)
        except ImageError as error:
            plan.errors[f"{sample.id} {candidate.id}"] = error.detail
            row[task] = None
            continue
        plan.prompts.setdefault(row[task], (task, sample.instruction, load))
    return row
