"""Synthetic twins of the public benchmarks: drawn groups in their schemas, ranked by rule, as Parquet with images.

    python -m evaluation.benchmarks.draw runs/tiny/synthetic-benchmarks --samples 200

Candidates are ranked by R of their true scores, or by the score of a dimension; those of one sample differ by MINIMUM_GAP of
the range or more. One MMRB2 row in five has a second source image, which shows another scene.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from data.synthetic.generate import group_rows
from evaluation.benchmarks import BENCHMARKS, load_benchmark
from spatial_edit_reward import Spec, aggregate
from spatial_edit_reward.spec import Pixels

MINIMUM_GAP = 0.05
# The public names of what an instruction begins with; requests for two things are "compose".
TASK_TYPES = {
    "Add": "subject-add",
    "Remove": "subject-remove",
    "Replace": "subject-replace",
    "Recolour": "color_alter",
    "Move": "motion_change",
    "Make": "ps_human",
}
SIZES = (2, 3, 4)
# Only the aggregation's weights are used of it.
SPEC = Spec(pixels=Pixels(min=256, max=4096, multiple=16), max_new_tokens=320)
# Kinds of columns, for `write_rows`.
TEXT, TEXTS, IMAGE, IMAGES = "text", "texts", "image", "images"


class Edit(NamedTuple):
    """One candidate: its image, R and the scores [success, over-editing], 0..25 each."""

    image: Any
    overall: float
    success: float
    kept: float


class Group(NamedTuple):
    """The candidates of one source and instruction."""

    number: int
    instruction: str
    source: Any
    edits: list[Edit]

    @property
    def category(self) -> str:
        return "compose" if " and " in self.instruction else TASK_TYPES[self.instruction.split()[0]]


def groups(seed: int, side: int) -> Iterator[Group]:
    """Endless drawn groups, four candidates each; images of `side` pixels."""
    for number in count():
        rows = group_rows(seed, number, side)
        edits = []
        for sc, pq in zip(rows[::2], rows[1::2], strict=True):
            scores = sc["reference"]["score"]
            edits.append(Edit(sc["images"][1], aggregate(scores, pq["reference"]["score"], SPEC), *scores))
        yield Group(number, rows[0]["instruction"], rows[0]["images"][0], edits)


def ranked(group: Group, size: int, rng: np.random.Generator) -> list[Edit] | None:
    """`size` candidates of the group that R tells apart, best first; None where there are not so many."""
    options = []
    for chosen in combinations(group.edits, size):
        best_first = sorted(chosen, key=lambda edit: -edit.overall)
        if all(a.overall - b.overall >= MINIMUM_GAP for a, b in pairwise(best_first)):
            options.append(best_first)
    return options[int(rng.integers(len(options)))] if options else None


def write_rows(
    file: Path,
    columns: Mapping[str, str],
    samples: int,
    seed: int,
    side: int,
    rows_of: Callable[[Group], list[dict[str, Any]]],
) -> None:
    """Writes the rows of the first `samples` drawn groups of which `rows_of` makes any; `columns`: name -> kind."""
    from datasets import Dataset, Features, Image, List, Value  # seconds to import

    kinds = {TEXT: Value("string"), TEXTS: List(Value("string")), IMAGE: Image(), IMAGES: List(Image())}
    rows: list[dict[str, Any]] = []
    with tqdm(total=samples, desc=str(file), unit="sample") as bar:
        for group in groups(seed, side):
            drawn = rows_of(group)
            rows += drawn
            bar.update(bool(drawn))
            if bar.n >= samples:
                break
    file.parent.mkdir(parents=True, exist_ok=True)
    features = Features({name: kinds[kind] for name, kind in columns.items()})
    Dataset.from_list(rows, features=features).to_parquet(str(file))


def write_benchmarks(folder: Path, samples: int, seed: int = 4711, side: int = 64) -> None:
    """Writes every benchmark under its name into `folder`: `samples` groups of each benchmark and size. `side`: pixels."""
    for name in BENCHMARKS:
        load_benchmark(name).draw(samples, seed, side, folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=200, help="of each benchmark and size (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=4711, help="groups of another seed than the training data's")
    parser.add_argument("--side", type=int, default=64, help="of a drawn image, in pixels (default: %(default)s)")
    arguments = parser.parse_args()
    write_benchmarks(arguments.folder, arguments.samples, arguments.seed, arguments.side)


if __name__ == "__main__":
    main()
