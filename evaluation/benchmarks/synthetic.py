"""Drawn groups in the public schemas of the four ranking benchmarks, best candidates known by rule, as Parquet with images.

    python -m evaluation.benchmarks.synthetic runs/tiny/synthetic-benchmarks --samples 200

Candidates are ranked by R of their true scores, or by the score of a dimension; those of one sample differ by MINIMUM_GAP of
the range or more. One MMRB2 row in five has a second source picture, which shows another scene.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, Features, Image, List, Value
from tqdm import tqdm

from data.synthetic.generate import group_rows
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
TEXT, PICTURE, PICTURES = Value("string"), Image(), List(Image())
SIZES = (2, 3, 4)
# Only the aggregation's weights are used of it.
SPEC = Spec(pixels=Pixels(min=256, max=4096, multiple=16), max_new_tokens=320)


class Edit(NamedTuple):
    """One candidate: its picture, R and the scores [success, over-editing], 0..25 each."""

    picture: Any
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
    def kind(self) -> str:
        return "compose" if " and " in self.instruction else TASK_TYPES[self.instruction.split()[0]]


def groups(seed: int, side: int) -> Iterator[Group]:
    """Endless drawn groups, four candidates each."""
    for number in count():
        rows = group_rows(seed, number, side)
        edits = []
        for sc, pq in zip(rows[::2], rows[1::2], strict=True):
            true, looks = sc["reference"]["score"], pq["reference"]["score"]
            edits.append(Edit(sc["images"][1], aggregate(true, looks, SPEC), *true))
        yield Group(number, rows[0]["instruction"], rows[0]["images"][0], edits)


def ranked(group: Group, size: int, rng: np.random.Generator) -> list[Edit] | None:
    """`size` candidates of the group that can be told apart by R, best first; None where there are not so many."""
    options = []
    for chosen in combinations(group.edits, size):
        best_first = sorted(chosen, key=lambda edit: -edit.overall)
        if all(a.overall - b.overall >= MINIMUM_GAP for a, b in pairwise(best_first)):
            options.append(best_first)
    return options[int(rng.integers(len(options)))] if options else None


def _collected(
    samples: int, seed: int, side: int, made: Callable[[Group], list[dict[str, Any]]], what: str
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with tqdm(total=samples, desc=what, unit="sample") as bar:
        for group in groups(seed, side):
            found = made(group)
            rows += found
            bar.update(bool(found))
            if bar.n >= samples:
                return rows
    raise AssertionError("groups are endless")


def merbench(samples: int, seed: int, side: int, folder: Path) -> None:
    """`data/2pair-...` to `4pair`: pair_id, label, instruction, original_image, edited_images (best first)."""
    features = {
        "pair_id": TEXT,
        "label": TEXT,
        "instruction": TEXT,
        "original_image": PICTURE,
        "edited_images": PICTURES,
    }
    for size in SIZES:
        rng = np.random.default_rng([seed, size])

        def made(group: Group, size: int = size, rng: np.random.Generator = rng) -> list[dict[str, Any]]:
            edits = ranked(group, size, rng)
            if edits is None:
                return []
            row = {"pair_id": f"{size}-{group.number}", "label": group.kind, "instruction": group.instruction}
            return [row | {"original_image": group.source, "edited_images": [edit.picture for edit in edits]}]

        rows = _collected(samples, seed + size, side, made, f"MER-Bench, {size} candidates")
        _save(rows, features, folder / "data" / f"{size}pair-00000-of-00001.parquet")


def editreward_bench(samples: int, seed: int, side: int, folder: Path) -> None:
    """key (2), instruction, input_image, output_images (2, the better first), task_type, dimension."""
    features = {
        "key": List(TEXT),
        "instruction": TEXT,
        "input_image": PICTURE,
        "output_images": PICTURES,
        "task_type": TEXT,
        "dimension": TEXT,
    }
    values: dict[str, Callable[[Edit], float]] = {
        "prompt_following": lambda edit: edit.success / 25,
        "consistency": lambda edit: edit.kept / 25,
        "overall": lambda edit: edit.overall,
    }
    rng = np.random.default_rng(seed)

    def made(group: Group) -> list[dict[str, Any]]:
        rows = []
        for dimension, value in values.items():
            pairs = [
                (a, b)
                for a in range(len(group.edits))
                for b in range(len(group.edits))
                if value(group.edits[a]) - value(group.edits[b]) >= MINIMUM_GAP
            ]
            if not pairs:
                continue
            better, worse = pairs[int(rng.integers(len(pairs)))]
            row = {"key": [f"{group.number}-{better}", f"{group.number}-{worse}"], "instruction": group.instruction}
            pictures = [group.edits[better].picture, group.edits[worse].picture]
            row |= {
                "input_image": group.source,
                "output_images": pictures,
                "task_type": group.kind,
                "dimension": dimension,
            }
            rows.append(row)
        return rows

    rows = _collected(samples, seed, side, made, "EditReward-Bench")
    _save(rows, features, folder / "data" / "train-00000-of-00001.parquet")


def tiger(samples: int, seed: int, side: int, folder: Path) -> None:
    """`2pair/` to `4pair/`: a row for each pair of a sample's candidates A, B, ..., whose letters say nothing of the order."""
    names = ("id", "dataset", "instruction", "ranking", "comparison_type")
    features = {**dict.fromkeys(names, TEXT), **dict.fromkeys(("source_image", "candidate_1", "candidate_2"), PICTURE)}
    for size in SIZES:
        rng = np.random.default_rng([seed, size, 1])

        def made(group: Group, size: int = size, rng: np.random.Generator = rng) -> list[dict[str, Any]]:
            edits = ranked(group, size, rng)
            if edits is None:
                return []
            letters = dict(zip("ABCD", rng.permutation(size).tolist(), strict=False))  # letter -> place, best first
            rows = []
            for a, b in combinations(letters, 2):
                said = f"{a}>{b}" if letters[a] < letters[b] else f"{b}>{a}"
                name = f"{group.number}" if size == 2 else f"{group.number}_{a}{b}"
                row = {"id": name, "dataset": f"{size}pair", "instruction": group.instruction, "ranking": said}
                row |= {"comparison_type": f"{a}vs{b}", "source_image": group.source}
                rows.append(row | {"candidate_1": edits[letters[a]].picture, "candidate_2": edits[letters[b]].picture})
            return rows

        rows = _collected(samples, seed + 10 + size, side, made, f"EditReward-Bench (TIGER), {size} candidates")
        _save(rows, features, folder / f"{size}pair" / "train-00000-of-00001.parquet")


def mmrb2(samples: int, seed: int, side: int, folder: Path) -> None:
    """`edit/test-...`: pair_id, prompt_text with placeholders, prompt_images, two responses, chosen, prompt_source."""
    texts = ("pair_id", "prompt_text", "prompt_source", "response_a_text", "response_b_text", "chosen")
    features = {
        **dict.fromkeys(texts, TEXT),
        **dict.fromkeys(("prompt_images", "response_a_images", "response_b_images"), PICTURES),
    }
    rng = np.random.default_rng([seed, 2])

    def made(group: Group) -> list[dict[str, Any]]:
        edits = ranked(group, 2, rng)
        if edits is None:
            return []
        several = group.number % 5 == 0
        sources = [group.source]
        if several:
            sources.append(group_rows(seed + 1000, group.number, side)[0]["images"][0])
        first = bool(rng.random() < 0.5)
        a, b = (edits[0], edits[1]) if first else (edits[1], edits[0])
        marks = "".join(f"<image_{number}>" for number in range(1, len(sources) + 1))
        row = {
            "pair_id": f"edit-{group.number}",
            "prompt_text": f"{marks}\n{group.instruction}",
            "prompt_images": sources,
        }
        row |= {"prompt_source": "several" if several else "drawn", "chosen": "A" if first else "B"}
        row |= {"response_a_text": "<image_1>", "response_a_images": [a.picture]}
        return [row | {"response_b_text": "<image_1>", "response_b_images": [b.picture]}]

    rows = _collected(samples, seed + 20, side, made, "MMRB2, edit")
    _save(rows, features, folder / "edit" / "test-00000-of-00001.parquet")


def _save(rows: Sequence[dict[str, Any]], features: dict[str, Any], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(list(rows), features=Features(features)).to_parquet(str(file))


def write_benchmarks(folder: Path, samples: int, seed: int = 4711, side: int = 64) -> None:
    """Writes all four under their names into `folder`: `samples` groups of each benchmark and size. `side`: pixels."""
    writers = {
        "merbench": merbench,
        "editreward-bench": editreward_bench,
        "tiger-editreward-bench": tiger,
        "mmrb2": mmrb2,
    }
    for name, write in writers.items():
        write(samples, seed, side, folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=200, help="of each benchmark and size (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=4711, help="groups of another seed than the training data's")
    parser.add_argument("--side", type=int, default=64, help="of a drawn picture, in pixels (default: %(default)s)")
    arguments = parser.parse_args()
    write_benchmarks(arguments.folder, arguments.samples, arguments.seed, arguments.side)


if __name__ == "__main__":
    main()
