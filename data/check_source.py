"""What the recipe assumes of a downloaded source, tried on its first 1,000 rows: what fails, and what to change.

python -m data --config recipes/spatialreward-8b/data.yaml --check_source spatialreward
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from tqdm import tqdm

from data.cleaning.box_format import UNKNOWN
from data.cleaning.fixer import KINDS
from data.cleaning.prepare import Context, Preparer
from data.first_images import Archive, extract, image_error, paths_in, same_pixels, with_folder
from data.first_rows import ROWS, FirstRows, read_first_rows
from data.readers import READERS
from data.readers.columns import streamed
from data.readers.json_rows import read_json
from data.readers.raw import Raw
from data.recipe import DataRecipe, Source
from data.report import LOW_SCORES, likely_range
from data.rows import features
from data.sources import find_templates
from data.templates import NEEDED
from spatial_edit_reward import TASKS
from spatial_edit_reward.errors import UserError

DECODED = 20  # rows whose images are decoded
MOST = 0.05  # share of rows that may be wrong in one way: such rows are dropped and counted
SECONDS = 30  # for the search for rows that answer those without an answer

# What is assumed -> (the errors of a row that speak against it, what to change in the recipe).
ASSUMED = {
    "rows are JSON": (("not_json",), "path"),
    "keys": (("not_a_row",), "layout, or columns"),
    "images of a row": (("no_images", "image_count", "task_disagrees"), "layout, or columns"),
    "images are there": (("image_missing", "image_outside"), "images"),
    "images can be read": (("bad_image", "image_too_large"), "images"),
    "instruction": (("no_instruction",), "prompt_from, or columns"),
    "boxes": (tuple(kind for kind in KINDS if kind.startswith("box_")), "box_format"),
    "scores": (tuple(kind for kind in KINDS if kind.startswith("score_")), "score_range"),
}
ASSUMED["verdicts"] = (
    tuple(set(KINDS) - {kind for kinds, _ in ASSUMED.values() for kind in kinds}),
    "layout, or policy",
)


class Line(NamedTuple):
    """One assumption: whether it holds, what was read, and the key of the recipe to change where it does not."""

    assumption: str
    holds: bool
    seen: str
    change: str = ""


def first_keys(source: Source) -> str:
    """The keys of the first row, as the file has them."""
    path = Path(source.path)
    rows = read_json(path) if path.suffix in (".json", ".jsonl") else streamed(source)
    content = next((content for _, _, content in rows), None)
    return ", ".join(content) if isinstance(content, dict) else type(content).__name__


def error_line(name: str, first: FirstRows, seen: str = "", change: str | None = None, holds: bool = True) -> Line:
    """The line of an assumption: it fails where more than MOST of the rows have one of its errors, or not `holds`."""
    kinds, advice = ASSUMED[name]
    counts = {kind: first.errors[kind] for kind in kinds if first.errors[kind]}
    if counts:
        kind = max(counts, key=lambda kind: counts[kind])
        wrong = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        seen = f"{seen}{'; ' if seen else ''}{wrong}, e.g. {first.examples[kind]}"
    holds = holds and sum(counts.values()) <= MOST * first.rows
    return Line(name, holds, seen or f"in {first.rows} of {first.rows} rows", "" if holds else change or advice)


def image_lines(source: Source, first: FirstRows, archive: Archive | None) -> Iterator[Line]:
    """Whether images are where the rows say, and can be read; of a long archive its first images, and how its names look."""
    counts = [f"{first.images[number]} rows name {number}" for number in sorted(first.images)]
    yield error_line("images of a row", first, ", ".join(counts))
    raws = list(islice(READERS[source.layout].rows(source), ROWS))
    if archive and not archive.complete:
        names = [name for raw in raws for name in paths_in(raw, source)]
        alike = re.sub(r"\d+", "0", archive.first_name) in {re.sub(r"\d+", "0", name) for name in names}
        seen = f"rows name e.g. {names[0] if names else 'none'}, the archive begins with {archive.first_name}; "
        seen += f"{first.rows - first.missing} of {first.rows} rows have theirs among its first images"
        yield Line("images are there", alike or first.missing < first.rows, seen, "" if alike else "images")
    else:
        missing = (
            f"{first.missing} rows name a file that is not there, e.g. {first.missing_example}" if first.missing else ""
        )
        missing += f"; the archive holds e.g. {archive.first_name}" if missing and archive else ""
        yield error_line("images are there", first, missing, holds=first.missing <= MOST * first.rows)
    there = [raw for raw in raws if all(not isinstance(image, Path) or image.is_file() for image in raw.images)][
        :DECODED
    ]
    errors = [error for raw in there for image in raw.images if (error := image_error(image))]
    readable = f"{sum(len(raw.images) for raw in there) - len(errors)} images of {len(there)} rows read"
    yield Line("images can be read", not errors, "; ".join([readable, *errors[:1]]), "images" if errors else "")


def prompt_lines(source: Source, recipe: DataRecipe, first: FirstRows, preparer: Preparer) -> Iterator[Line]:
    """How many prompts of each task the recovered template explains: it has to where the model is asked with it."""
    needed = source.name == recipe.prompt_from
    for task in TASKS:
        if first.prompts[task]:
            template = preparer.context.templates.get((source.name, task))
            holds = not needed or first.explained[task] >= NEEDED * first.prompts[task]
            words = " ".join(template.spec_prompt(source.score_range).split()) if template else "no text in common"
            seen = f"{first.explained[task]} of {first.prompts[task]} explained by: {words[:60]}...{words[-40:]}"
            yield Line(f"{task} prompts", holds, seen, "" if holds else "prompt_from, or prompts")
    yield error_line("instruction", first)


def answer_line(source: Source, recipe: DataRecipe, first: FirstRows) -> Line:
    """How many rows have an answer, and whether rows of another source answer those that have none."""
    seen = f"{first.rows - len(first.answerless)} of {first.rows} rows have one"
    if len(first.answerless) <= MOST * first.rows:
        return Line("answers", True, seen)
    wanted: dict[str, list[Raw]] = {}
    for instruction, raw in first.answerless:
        if instruction and len(raw.images) == 2:
            wanted.setdefault(" ".join(instruction.split()), []).append(raw)
    answered = False
    for other in recipe.sources:
        if other.name == source.name or not getattr(READERS[other.layout], "HAS_PROMPTS", True):
            continue
        try:
            with with_folder(other) as (read, parts):
                searched, pairs = search_answers(wanted, read)
                extract(parts, read, (raw for _, raw in pairs))
                compared, same_images = compare_images(pairs)
        except UserError:  # it is in that source's own table
            continue
        answered |= same_images > 0 or (bool(pairs) and not compared)
        matched = len({id(answerless) for answerless, _ in pairs})
        seen += f"; {matched} others have the instruction of one of {searched} rows of {other.name}"
        seen += f", {same_images} of {compared} compared have its images" if compared else ""
    return Line("answers", answered, seen, "" if answered else "sources: one with the same edits and answers")


def search_answers(wanted: Mapping[str, Sequence[Raw]], other: Source) -> tuple[int, list[tuple[Raw, Raw]]]:
    """(how many rows of `other` were searched, pairs of a row of `wanted`, by instruction, and one that may answer it).

    Stops after SECONDS. Raises UserError where `other` cannot be read.
    """
    template = find_templates([other], ROWS).get((other.name, "sc"))
    stop = time.monotonic() + SECONDS
    searched = 0
    pairs: list[tuple[Raw, Raw]] = []
    for raw in tqdm(READERS[other.layout].rows(other), desc=f"answers in {other.name}", unit="row", delay=2):
        if time.monotonic() > stop:
            break
        searched += 1
        if not raw.error and raw.verdict and len(raw.images) == 2 and len(pairs) < 10 * ROWS:
            instruction = raw.instruction or (raw.prompt and template and template.instruction(raw.prompt)) or ""
            pairs += [(answerless, raw) for answerless in wanted.get(" ".join(instruction.split()), ())]
    return searched, pairs


def compare_images(pairs: Sequence[tuple[Raw, Raw]]) -> tuple[int, int]:
    """(answerless rows whose images could be compared with those of another row, DECODED at most; how many have the same)."""
    compared: dict[int, bool] = {}
    for answerless, raw in pairs:
        images = [*answerless.images, *raw.images]
        if len(compared) < DECODED and all(not isinstance(image, Path) or image.is_file() for image in images):
            compared[id(answerless)] = compared.get(id(answerless), False) or same_pixels(answerless.images, raw.images)
    return len(compared), sum(compared.values())


def verdict_lines(source: Source, first: FirstRows) -> Iterator[Line]:
    """Whether verdicts, their boxes and their scores are of the forms that the recipe declares."""
    yield error_line("verdicts", first)
    if first.boxes:
        counts, problem = first.boxes.counts, first.boxes.problem or first.order_problem(source)
        seen = f"{counts['boxes']} boxes, {counts['boxes'] - first.boxes.wrong} of them fit {first.boxes.declared}"
        declaration = re.search(r"box_format: \w+(?=`)", problem or "")
        advice = declaration.group() if declaration else None
        yield error_line("boxes", first, "; ".join(filter(None, [seen, problem])), advice, holds=problem is None)
    elif first.errors["box_key"]:
        yield error_line("boxes", first)
    if first.scores:
        (low, high), (lowest, highest) = source.score_range, first.scores
        few = highest - low <= LOW_SCORES * (high - low)
        seen = f"from {lowest:g} to {highest:g}, declared {low:g} to {high:g}"
        change = f"score_range: [{low:g}, {likely_range(highest):g}]" if few else None
        yield error_line("scores", first, seen, change, holds=not few)
    elif sum(first.errors[kind] for kind in ASSUMED["scores"][0]):
        yield error_line("scores", first)


def check_lines(source: Source, recipe: DataRecipe) -> list[Line]:
    """Every assumption about `source`, tried on its first rows. Raises UserError where it cannot be read at all."""
    with with_folder(source) as (read, parts):
        archive = extract(parts, read, islice(READERS[source.layout].rows(read), ROWS))
        preparer = Preparer(Context(recipe, recipe.spec(), features().arrow_schema, None, find_templates([read], ROWS)))
        size_of = preparer.image_size
        if archive and not archive.complete:  # the others are in the archive, further on
            preparer.image_size = lambda image: size_of(image) if os.path.isfile(str(image)) else UNKNOWN
        first = read_first_rows(read, preparer)
        return lines_of(read, recipe, first, preparer, archive)


def lines_of(
    source: Source, recipe: DataRecipe, first: FirstRows, preparer: Preparer, archive: Archive | None
) -> list[Line]:
    """The lines of the table of `source`."""
    if not first.rows:
        return [Line("rows are JSON", False, "no row was read", "path")]
    usable_for_sft = getattr(READERS[source.layout], "USABLE_FOR_SFT", True)
    for_sft = [split for split in source.splits if split in ("train", "validation")]
    return [
        error_line("rows are JSON", first, f"{first.rows} rows read"),
        error_line("keys", first, first_keys(source)),
        *image_lines(source, first, archive),
        *prompt_lines(source, recipe, first, preparer),
        answer_line(source, recipe, first),
        *verdict_lines(source, first),
        Line("ids", len(first.ids) == first.rows, f"{len(first.ids)} different in {first.rows} rows", ""),
        Line(
            "splits",
            usable_for_sft or not for_sft,
            f"{dict(source.splits)}{'' if usable_for_sft else '; its rows hold no words to imitate'}",
            "" if usable_for_sft or not for_sft else f"splits without {' and '.join(for_sft)}",
        ),
    ]


def check_source(recipe: DataRecipe, name: str) -> None:
    """Prints the table of the source `name`, or of all for "all". Raises UserError naming what fails."""
    sources = [source for source in recipe.sources if name in (source.name, "all")]
    if not sources:
        raise UserError(
            f"check_source: there is no source {name!r}; there are {', '.join(s.name for s in recipe.sources)}"
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    failed = []
    for source in sources:
        seen = Column("seen", overflow="fold")  # a long path goes over two lines: cut off, it names no file
        table = Table("assumption", "", seen, "change in data.yaml", title=source.name, title_justify="left")
        try:
            lines = check_lines(source, recipe)
        except UserError as error:
            lines = [Line("files", False, str(error), "path, or images")]
        for line in lines:
            table.add_row(line.assumption, "ok" if line.holds else "FAILS", escape(line.seen), escape(line.change))
            failed += [] if line.holds else [f"{source.name}: {line.assumption} ({line.change})"]
        console.print(table)
    if failed:
        raise UserError(f"what the recipe assumes does not hold: {'; '.join(failed)}")
