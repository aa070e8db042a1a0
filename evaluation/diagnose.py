"""`make diagnose`: a model's attention on both images while it writes `sc` verdicts: a table, `diagnose.json`, heat maps.

What is measured is defined in `evaluation/attention_maps.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from data.rows import load_rows
from data.stored_rows import StoredRows
from evaluation import attention_maps as definitions
from evaluation.attention_maps import AttentionMap, attention_maps, measure
from evaluation.recipe import EvalRecipe
from evaluation.terminal import print_table
from pipeline.folders import require
from spatial_edit_reward import KEYS, Spec
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.draw import PREDICTED_COLOR, TRUE_COLOR, Outline, data_uri, draw_boxes, overlay_heatmap
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.files import write_json
from spatial_edit_reward.images import fit
from spatial_edit_reward.inference.backends import load_model_spec
from spatial_edit_reward.inference.generation import generate_batch
from spatial_edit_reward.inference.model import load_for_inference
from spatial_edit_reward.pages import drawable_boxes, render_page
from spatial_edit_reward.parser import parse_or_none

PARTS = (*KEYS["sc"], "all")
IMAGES = ("source", "edited")
SHOWN_SIDE = 168
Figures = dict[str, float]


def split_parts(texts: Sequence[str]) -> dict[str, list[int]]:
    """Part of an `sc` verdict -> the indices of its tokens, whose texts are `texts`; "all": those of all parts.

    A token belongs to the part that its last character is in.
    """
    text = "".join(texts)
    starts = [0]
    for key in KEYS["sc"][1:]:
        matches = list(re.finditer(rf'"{key}"\s*:', text))
        starts.append(matches[-1].start() if matches else len(text))
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    offset = 0
    for i, piece in enumerate(texts):
        if piece:  # the token that ends the turn has no text, and is no part of the verdict
            part = max(number for number, start in enumerate(starts) if start < offset + len(piece))
            parts[KEYS["sc"][part]].append(i)
            parts["all"].append(i)
        offset += len(piece)
    return parts


def mean_figures(maps: Sequence[AttentionMap], tokens: Sequence[int]) -> Figures:
    """Means over the written `tokens`; entropies in nats, the rest shares."""
    figures: Figures = {"tokens": float(len(tokens))}
    for name, one in zip(IMAGES, maps, strict=True):
        measures = measure(one.weights[list(tokens)])
        figures |= {f"{kind}_{name}": float(values.mean()) for kind, values in measures._asdict().items()}
    figures["entropy_difference"] = figures["entropy_edited"] - figures["entropy_source"]
    return figures


def draw_maps(
    row: Mapping[str, Any], completion: str, maps: Sequence[AttentionMap], parts: Mapping[str, list[int]]
) -> dict[str, list[str]]:
    """Part -> data URIs of the two heat maps, on one scale, with the true and the predicted boxes on the edited image."""
    verdict = parse_or_none(completion, "sc")
    boxes = [Outline(TRUE_COLOR, region["bbox_2d"]) for region in row["reference"]["edit_region"] or ()]
    boxes += [Outline(PREDICTED_COLOR, box) for _, box in drawable_boxes(verdict.edit_region if verdict else None)]
    drawn = {}
    for part, tokens in parts.items():
        means = [one.mean(tokens) for one in maps]
        highest = max(float(values.max()) for values in means)
        source, edited = (
            overlay_heatmap(image, (values / highest).cpu().numpy(), SHOWN_SIDE)
            for image, values in zip(row["images"], means, strict=True)
        )
        drawn[part] = [data_uri(source), data_uri(draw_boxes(edited, boxes, side=None))]
    return drawn


def spread_evenly(rows: StoredRows, count: int) -> list[int]:
    """Indices of at most `count` of the `sc` rows, evenly spread."""
    indices = [i for i, row in enumerate(rows.texts()) if row["task"] == "sc"]
    return [indices[number * len(indices) // count] for number in range(count)] if count < len(indices) else indices


def table_lines(means: Mapping[str, Figures]) -> list[list[str]]:
    """A head, then a line per part."""
    columns = [f"{kind} {name}" for kind in ("mass", "entropy", "top 10 %") for name in IMAGES]
    columns.insert(4, "difference")
    lines = [["part", "tokens", *columns]]
    for part, figures in means.items():
        cells = [f"{figures[f'{kind}_{name}']:.3f}" for kind in ("mass", "entropy", "top") for name in IMAGES]
        cells.insert(4, f"{figures['entropy_difference']:+.3f}")
        lines.append([part, f"{figures['tokens']:.1f}", *cells])
    return lines


def measure_row(
    model: PreTrainedModel, processor: ProcessorMixin, spec: Spec, row: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(what the JSON holds of a row, its card on the page); None where its verdict is cut off or unparsed."""
    images = [fit(image, spec.pixels) for image in row["images"]]
    chat = prompt_messages("sc", row["instruction"], spec)
    batch = generate_batch(model, processor, [chat], [images], spec.max_new_tokens)
    [completion] = batch.responses
    if parse_or_none(completion.text, "sc") is None:
        return None
    maps = attention_maps(model, processor, batch)
    ids = batch.tokens[0, : completion.completion_tokens].tolist()
    parts = split_parts(processor.batch_decode([[token] for token in ids], skip_special_tokens=True))
    figures = {part: mean_figures(maps, tokens) for part, tokens in parts.items()}
    sizes = {name: one.height * one.width for name, one in zip(IMAGES, maps, strict=True)}
    measured = {"id": row["id"], "completion": completion.text, "picture_tokens": sizes, "parts": figures}
    drawn = draw_maps({**row, "images": images}, completion.text, maps, parts)
    return measured, {**row, "completion": completion.text, "parts": figures, "images": drawn}


def write_diagnosis(report: Mapping[str, Any], cards: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Prints the table and writes `diagnose.json` and `diagnose.html`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "diagnose.json", report)
    rows, left_out, lines = report["rows"], report["left_out"], table_lines(report["means"])
    highest = math.log(max(size for row in rows for size in row["picture_tokens"].values()))
    title = f"attention on the images: {len(rows)} sc rows, entropies in nats of at most {highest:.2f}"
    if left_out:
        title += f"; {len(left_out)} unparsed left out"
    explained = (definitions.__doc__ or "").split("\n- ")
    render_page(
        "diagnose.html.j2",
        folder / "diagnose.html",
        title="Attention on the images",
        subtitle=f"{report['model']}: {title}",
        lines=lines,
        definitions=[explained[0].split("\n\n")[1], *explained[1:]],
        cards_shown=cards,
    )
    print_table(lines, title)
    print(f"{folder / 'diagnose.json'}\n{folder / 'diagnose.html'}")


def diagnose(model_name: str, spec: Spec, rows: StoredRows, count: int, folder: Path) -> dict[str, Any]:
    """Measures at most `count` rows, prints the table, writes `diagnose.json` and `diagnose.html`; returns what the JSON holds.

    Rows whose verdict is cut off or unparsed are left out and counted. Raises UserError where none is left.
    """
    model, processor = load_for_inference(model_name, spec, attention="eager")
    measured, cards, left_out = [], [], []
    for i in tqdm(spread_evenly(rows, count), desc="attention", unit="row"):
        row = rows[i]
        result = measure_row(model, processor, spec, row)
        if result is None:
            left_out.append(row["id"])
            continue
        measured.append(result[0])
        cards.append(result[1])
    if not measured:
        raise UserError(f"{model_name}: no readable verdict on {len(left_out)} rows, so there is nothing to diagnose")
    means = {
        part: {
            name: sum(row["parts"][part][name] for row in measured) / len(measured)
            for name in measured[0]["parts"][part]
        }
        for part in PARTS
    }
    report = {"model": model_name, "rows": measured, "left_out": left_out, "means": means}
    write_diagnosis(report, cards, folder)
    return report


def run_diagnose(recipe: EvalRecipe, model: str, spec_folder: Path | None, count: int) -> None:
    """`diagnose` on the recipe's held-out rows. Raises UserError where there are none, or the model cannot be used."""
    rows_file = require(recipe.run_dir / "data" / "heldout.parquet", "data")
    spec = load_model_spec(model, spec_folder)
    diagnose(model, spec, load_rows(rows_file, spec), count, recipe.run_dir / "diagnose")
