"""The readers: each public benchmark's rows as samples, candidates as stored, with their true ranks.

Columns are those of the dataset cards. TIGER's are the ones that its own evaluation code reads (`id`, `dataset`, `instruction`,
`source_image`, `candidate_1`, `candidate_2`, `ranking`, `comparison_type`: a row is one pair, a sample of three or four
candidates is the rows that share the id up to its first "_"); MMRB2's beyond `pair_id`, `prompt_text`, `prompt_images` and
`chosen` are its own converter's (`response_a_images`, `response_b_images`, `prompt_source`). Neither was seen on the Hub.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.benchmarks.published import SIZES
from evaluation.benchmarks.tables import Picture, Table, load_table
from spatial_edit_reward.errors import UserError

PLACEHOLDER = re.compile(r"<image_(\d+)>")


@dataclass(frozen=True)
class Candidate:
    """One edit: its id in result files, and its true rank (0 best; equal: people saw a tie)."""

    id: str
    rank: int
    picture: Callable[[], Picture | None]


@dataclass(frozen=True)
class Sample:
    """What people ranked: candidates of the same sources and instruction, as stored. `extra`: what the published rule needs."""

    id: str
    category: str
    instruction: str
    candidates: tuple[Candidate, ...]
    sources: Callable[[], list[Picture | None]]
    source_count: int = 1
    dimension: str = "overall"
    extra: str = ""


def _only(table: Table, place: int, column: str, number: int) -> Callable[[], Picture | None]:
    def picture() -> Picture | None:
        found = table.pictures(place, column)
        return found[number] if number < len(found) else None

    return picture


def _text(row: dict[str, Any], column: str, name: str) -> str:
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{name}: {column} must be a text, got {value!r}")
    return value


def merbench(source: str | None) -> list[Sample]:
    """MER-Bench: `edited_images` best first, splits 2pair, 3pair and 4pair."""
    columns = ("pair_id", "label", "instruction", "original_image", "edited_images")
    samples = []
    seen: set[str] = set()
    for size in SIZES:
        table = load_table(source, "SpatialReward/MER-Bench", None, f"{size}pair", columns)
        for place, row in enumerate(table.plain):
            name, count = str(row["pair_id"]), row["edited_images"]
            if name in seen:  # a copy in one file: every split reads all of it
                continue
            seen.add(name)
            edits = [Candidate(f"{name}/{n}", n, _only(table, place, "edited_images", n)) for n in range(count)]
            text = _text(row, "instruction", f"{table.name}: {name}")
            sources = _listed(table, place, "original_image")
            samples.append(Sample(name, str(row["label"]), text, tuple(edits), sources))
    return samples


def _listed(table: Table, place: int, column: str) -> Callable[[], list[Picture | None]]:
    return lambda: table.pictures(place, column)


def editreward_bench(source: str | None) -> list[Sample]:
    """EditScore's EditReward-Bench: pairs, the first output the better one on the row's dimension; outputs come back by key."""
    columns = ("key", "instruction", "input_image", "output_images", "task_type", "dimension")
    table = load_table(source, "EditScore/EditReward-Bench", None, "train", columns)
    samples = []
    for place, row in enumerate(table.plain):
        keys = row["key"]
        if not isinstance(keys, list) or len(keys) != 2:
            raise UserError(f"{table.name}: row {place}: key must be two keys, got {keys!r}")
        pair = tuple(Candidate(str(key), n, _only(table, place, "output_images", n)) for n, key in enumerate(keys))
        name = f"{place}:{row['dimension']}"
        text = _text(row, "instruction", f"{table.name}: row {place}")
        sources = _listed(table, place, "input_image")
        samples.append(Sample(name, str(row["task_type"]), text, pair, sources, dimension=str(row["dimension"])))
    return samples


def tiger(source: str | None) -> list[Sample]:
    """TIGER's EditReward-Bench: the pairs of a sample put together again; ranks by the number of pairs won."""
    columns = ("id", "dataset", "instruction", "source_image", "candidate_1", "candidate_2", "ranking")
    groups: dict[tuple[str, str], list[tuple[Table, int]]] = defaultdict(list)
    tables: dict[str, Table] = {}
    for size in SIZES:
        table = load_table(
            source, "TIGER-Lab/EditReward-Bench", f"{size}pair", "train" if source is None else f"{size}pair", columns
        )
        tables.setdefault(table.name, table)
        for place, row in enumerate(table.plain):
            if row["dataset"] == f"{size}pair":
                name = str(row["id"]) if size == 2 else str(row["id"]).split("_")[0]
                groups[row["dataset"], name].append((table, place))
    return [_of_pairs(kind, name, rows) for (kind, name), rows in groups.items()]


def _of_pairs(kind: str, name: str, rows: Sequence[tuple[Table, int]]) -> Sample:
    pictures: dict[str, Callable[[], Picture | None]] = {}
    wins: dict[str, int] = defaultdict(int)
    votes = {}
    for table, place in rows:
        row = table.plain[place]
        first, second = str(row.get("comparison_type") or "AvsB").split("vs")
        pictures.setdefault(first, _only(table, place, "candidate_1", 0))
        pictures.setdefault(second, _only(table, place, "candidate_2", 0))
        said = str(row["ranking"]).replace(" ", "")
        vote = 1 if said == f"{first}>{second}" else -1 if said in (f"{second}>{first}", f"{first}<{second}") else 0
        if not vote and not said.startswith(f"{first}={second}"):
            raise UserError(f"{table.name}: {row['id']}: ranking {said!r} is not about {first} and {second}")
        votes[first, second] = vote
        wins[first] += vote
        wins[second] -= vote
    table, place = rows[0]
    letters = sorted(pictures)
    better = sorted({wins[letter] for letter in letters}, reverse=True)
    edits = tuple(Candidate(f"{name}/{letter}", better.index(wins[letter]), pictures[letter]) for letter in letters)
    said = ",".join(f"{letters.index(a)}{letters.index(b)}{vote:+d}" for (a, b), vote in votes.items())
    text = _text(table.plain[place], "instruction", f"{table.name}: {name}")
    return Sample(f"{kind}/{name}", kind, text, edits, _listed(table, place, "source_image"), extra=said)


def mmrb2(source: str | None) -> list[Sample]:
    """MMRB2's edit task: two responses, one or more source pictures; placeholders inside the prompt become "image N"."""
    columns = ("pair_id", "prompt_text", "prompt_images", "response_a_images", "response_b_images", "chosen")
    table = load_table(source, "facebookresearch/MMRB2", "edit", "test" if source is None else "edit", columns)
    samples = []
    for place, row in enumerate(table.plain):
        name, chosen = str(row["pair_id"]), str(row["chosen"]).upper()
        if chosen not in ("A", "B"):
            raise UserError(f"{table.name}: {name}: chosen must be A or B, got {row['chosen']!r}")
        edits = tuple(
            Candidate(
                f"{name}_{letter}", int(letter != chosen), _only(table, place, f"response_{letter.lower()}_images", 0)
            )
            for letter in "AB"
        )
        text = _text(row, "prompt_text", f"{table.name}: {name}").strip()
        text = re.sub(rf"^(\s*{PLACEHOLDER.pattern})+|({PLACEHOLDER.pattern}\s*)+$", "", text).strip()
        text = PLACEHOLDER.sub(lambda match: f"image {match[1]}", text)
        category = str(row.get("prompt_source") or "unknown")
        sources = _listed(table, place, "prompt_images")
        samples.append(Sample(name, category, text, edits, sources, row["prompt_images"], extra=chosen))
    return samples


READERS: dict[str, Callable[[str | None], list[Sample]]] = {
    "merbench": merbench,
    "editreward-bench": editreward_bench,
    "tiger-editreward-bench": tiger,
    "mmrb2": mmrb2,
}
BENCHES = tuple(READERS)


def read_samples(bench: str, source: str | None) -> list[Sample]:
    """The samples of a benchmark, from the Hub (`source` None) or a local copy. Raises UserError where it cannot be read."""
    samples = READERS[bench](source)
    names = [sample.id for sample in samples]
    if not samples or len(set(names)) < len(names):
        raise UserError(f"{bench}: {'two samples with the same id' if samples else 'no sample found'}")
    return samples
