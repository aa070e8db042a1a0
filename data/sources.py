"""The recipe's sources: which reader each layout has, and the prompt that a source asks with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tqdm import tqdm

from data.readers import columns, editreward, editscore, sharegpt, spatialreward
from data.readers.raw import Raw
from data.recipe import Source
from data.templates import SAMPLE, PromptTemplate, recover
from spatial_edit_reward import TASKS, Task

LAYOUTS: dict[str, Callable[[Source], Iterator[Raw]]] = {
    "spatialreward": spatialreward.rows,
    "editscore": editscore.rows,
    "editreward": editreward.rows,
    "sharegpt": sharegpt.rows,
    "datasets": columns.rows,
}
Templates = dict[tuple[str, Task], PromptTemplate]


def find_templates(sources: Sequence[Source]) -> Templates:
    """The prompt template of each source and task that has one, from the source's first SAMPLE prompts of the task."""
    prompts: dict[tuple[str, Task], list[tuple[str, str | None]]] = {}
    for source in sources:
        if source.layout == "editreward" or (source.columns and not source.columns.prompt):
            continue
        for raw in tqdm(LAYOUTS[source.layout](source), desc=f"prompts of {source.name}", unit="row", delay=2):
            task: Task = "pq" if len(raw.images) == 1 else "sc"
            known = prompts.setdefault((source.name, task), [])
            if raw.prompt is not None and raw.images and len(known) < SAMPLE:
                known.append((raw.prompt, raw.instruction))
            if all(len(prompts.get((source.name, task), ())) >= SAMPLE for task in TASKS):
                break
    found = {key: recover(sample) for key, sample in prompts.items() if sample}
    return {key: template for key, template in found.items() if template is not None}
