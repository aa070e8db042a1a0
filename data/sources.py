"""A recipe's sources as the stage goes through them, and the prompt that each one has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import islice

from tqdm import tqdm

from data.readers import READERS
from data.readers.raw import Raw
from data.recipe import SPLITS, DataRecipe, Source, Split
from data.synthetic.rows import NAME, synthetic_chunks
from data.templates import SAMPLE, PromptTemplate, recover
from spatial_edit_reward import TASKS, Task
from spatial_edit_reward.schema import DEFAULT_SCORE_RANGE, ScoreRange

Templates = dict[tuple[str, Task], PromptTemplate]
# Some rows of a source, or what makes them in a process of the pool.
Chunk = Sequence[Raw] | Callable[[], Sequence[Raw]]


@dataclass(frozen=True)
class RowSource:
    """A public source of the recipe, or the synthetic groups of one split; `chunks(size)` starts its rows."""

    name: str
    splits: Mapping[Split, float]
    chunks: Callable[[int], Iterator[Chunk]]
    score_range: ScoreRange = DEFAULT_SCORE_RANGE
    usable_for_sft: bool = True


def open_sources(recipe: DataRecipe) -> list[RowSource]:
    """The recipe's sources in order, then its synthetic groups, split by split."""
    sources = []
    for source in recipe.sources:
        usable_for_sft = getattr(READERS[source.layout], "USABLE_FOR_SFT", True)
        chunks = partial(public_chunks, source, recipe.seed)
        sources.append(RowSource(source.name, source.splits, chunks, source.score_range, usable_for_sft))
    splits = [split for split in SPLITS if split in recipe.synthetic_groups]
    return sources + [RowSource(NAME, {split: 1.0}, partial(synthetic_chunks, recipe, split)) for split in splits]


def public_chunks(source: Source, seed: int, size: int) -> Iterator[list[Raw]]:
    """The rows of a public source, `size` at a time; of `source.subsample` below 1 that share of them, with whole groups."""
    rows = READERS[source.layout].rows(source)
    if source.subsample < 1:
        rows = (raw for raw in rows if drawn(f"{seed} {source.name} {raw.group or raw.id}") < source.subsample)
    while chunk := list(islice(rows, size)):
        yield chunk


def drawn(name: str) -> float:
    """A number in 0..1 that is the same for the same name, and spread evenly over names."""
    return int.from_bytes(blake2b(name.encode(errors="replace"), digest_size=8).digest(), "big") / 2**64


def find_templates(sources: Sequence[Source], rows: int | None = None) -> Templates:
    """The prompt template of each source and task that has one, from the source's first SAMPLE prompts of the task.

    `rows`: how many rows of a source are read at most; None for as many as it needs.
    """
    prompts: dict[tuple[str, Task], list[tuple[str, str | None]]] = {}
    for source in sources:
        reader = READERS[source.layout]
        if not getattr(reader, "HAS_PROMPTS", True) or (source.columns and not source.columns.prompt):
            continue
        for raw in tqdm(islice(reader.rows(source), rows), desc=f"prompts of {source.name}", unit="row", delay=2):
            task: Task = "pq" if len(raw.images) == 1 else "sc"
            known = prompts.setdefault((source.name, task), [])
            if raw.prompt is not None and raw.images and len(known) < SAMPLE:
                known.append((raw.prompt, raw.instruction))
            if all(len(prompts.get((source.name, task), ())) >= SAMPLE for task in TASKS):
                break
    templates = {key: recover(sample, fixed=key[1] == "pq") for key, sample in prompts.items() if sample}
    return {key: template for key, template in templates.items() if template is not None}
