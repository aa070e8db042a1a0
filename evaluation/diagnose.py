"""`make diagnose`: where a model looks while it writes `sc` verdicts, as a table, `diagnose.json` and a page of heat maps.

What is measured is defined in `evaluation/attention.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from tqdm import tqdm

from evaluation import attention_maps as attention
from evaluation.attention_maps import Look, heat, looks, measure
from evaluation.report import print_table
from spatial_edit_reward import KEYS, Spec
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.draw import PREDICTED_COLOR, TRUE_COLOR, Outline, data_uri, draw_boxes, overlay_heatmap
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.files import write_json
from spatial_edit_reward.images import fit
from spatial_edit_reward.inference.generation import generate_batch
from spatial_edit_reward.inference.model import load_model, load_processor
from spatial_edit_reward.pages import drawable_boxes, render_page
from spatial_edit_reward.parser import parse_or_none

PARTS = (*KEYS["sc"], "all")
PICTURES = ("source", "edited")
SHOWN_SIDE = 168
Figures = dict[str, float]


def parts_of(pieces: Sequence[str]) -> dict[str, list[int]]:
    """Part of an `sc` verdict -> the places of its tokens, whose texts are `pieces`; "all": those of all parts.

    A token belongs to the part that its last character is in.
    """
    text = "".join(pieces)
    starts = [0]
    for key in KEYS["sc"][1:]:
        found = [match.start() for match in re.finditer(rf'"{key}"\s*:', text)]
        starts.append(found[-1] if found else len(text))
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    offset = 0
    for place, piece in enumerate(pieces):
        if piece:  # the token that ends the turn has no text, and is no part of the verdict
            number = max(number for number, start in enumerate(starts) if start < offset + len(piece))
            parts[KEYS["sc"][number]].append(place)
            parts["all"].append(place)
        offset += len(piece)
    return parts


def figures_of(pair: Sequence[Look], tokens: Sequence[int]) -> Figures:
    """Means over the written `tokens`; entropies in nats, the rest shares."""
    found: Figures = {"tokens": float(len(tokens))}
    for name, look in zip(PICTURES, pair, strict=True):
        measured = measure(look.weights[list(tokens)])
        found |= {f"{kind}_{name}": float(values.mean()) for kind, values in measured._asdict().items()}
    found["entropy_difference"] = found["entropy_edited"] - found["entropy_source"]
    return found


def pictures_of(row: Mapping[str, Any], completion: str, pair: Sequence[Look], parts: Mapping[str, list[int]]) -> Any:
    """Part -> data URIs of the two heat maps, on one scale, with the true and the predicted boxes on the edited picture."""
    verdict = parse_or_none(completion, "sc")
    boxes = [Outline(TRUE_COLOR, region["bbox_2d"]) for region in row["reference"]["edit_region"] or ()]
    boxes += [Outline(PREDICTED_COLOR, box) for _, box in drawable_boxes(verdict.edit_region if verdict else None)]
    shown = {}
    for part, tokens in parts.items():
        maps = [heat(look, tokens) for look in pair]
        highest = max(float(values.max()) for values in maps)
        images = [
            overlay_heatmap(image, (values / highest).cpu().numpy(), SHOWN_SIDE)
            for image, values in zip(row["images"], maps, strict=True)
        ]
        shown[part] = [data_uri(images[0]), data_uri(draw_boxes(images[1], boxes, side=None))]
    return shown


def chosen(rows: Dataset, count: int) -> list[int]:
    """At most `count` places of `sc` rows, evenly spread."""
    places = [place for place, task in enumerate(rows["task"]) if task == "sc"]
    return [places[number * len(places) // count] for number in range(count)] if count < len(places) else places


def table_of(means: Mapping[str, Figures]) -> list[list[str]]:
    """A head, then a line per part."""
    columns = [f"{what} {name}" for what in ("mass", "entropy", "top 10 %") for name in PICTURES]
    columns.insert(4, "difference")
    lines = [["part", "tokens", *columns]]
    for part, found in means.items():
        shares = [f"{found[f'{kind}_{name}']:.3f}" for kind in ("mass", "entropy", "top") for name in PICTURES]
        shares.insert(4, f"{found['entropy_difference']:+.3f}")
        lines.append([part, f"{found['tokens']:.1f}", *shares])
    return lines


def diagnose(model_name: str, spec: Spec, rows: Dataset, count: int, folder: Path) -> dict[str, Any]:
    """Measures at most `count` rows, prints the table, writes `diagnose.json` and `diagnose.html`; returns what the JSON holds.

    Rows whose verdict is cut off or unparsed are left out and counted. Raises UserError where none is left.
    """
    processor = load_processor(model_name, spec)
    model = load_model(model_name, "auto", "eager").to(PartialState(cpu=not torch.cuda.is_available()).device)
    measured, cards, left_out = [], [], []
    for place in tqdm(chosen(rows, count), desc="attention", unit="row"):
        row = rows[place]
        row["images"] = [fit(image, spec.pixels) for image in row["images"]]
        chat = prompt_messages("sc", row["instruction"], spec)
        batch = generate_batch(model, processor, [chat], [row["images"]], spec.max_new_tokens)
        [said] = batch.completions
        if parse_or_none(said.text, "sc") is None:
            left_out.append(row["id"])
            continue
        pair = looks(model, processor, batch)
        ids = batch.tokens[0, : batch.lengths[0]].tolist()
        pieces = processor.batch_decode([[token] for token in ids], skip_special_tokens=True)
        parts = parts_of(pieces)
        found = {part: figures_of(pair, tokens) for part, tokens in parts.items()}
        sizes = {name: look.height * look.width for name, look in zip(PICTURES, pair, strict=True)}
        measured.append({"id": row["id"], "completion": said.text, "picture_tokens": sizes, "parts": found})
        shown = pictures_of(row, said.text, pair, parts)
        cards.append({**row, "completion": said.text, "parts": found, "images": shown})
    if not measured:
        raise UserError(f"{model_name}: no readable verdict on {len(left_out)} rows, so there is nothing to diagnose")
    means = {
        part: {
            name: sum(one["parts"][part][name] for one in measured) / len(measured)
            for name in measured[0]["parts"][part]
        }
        for part in PARTS
    }
    report = {"model": model_name, "rows": measured, "left_out": left_out, "means": means}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "diagnose.json", report)
    highest = math.log(max(size for one in measured for size in one["picture_tokens"].values()))
    title = f"attention on the pictures: {len(measured)} sc rows, entropies in nats of at most {highest:.2f}"
    if left_out:
        title += f"; {len(left_out)} unparsed left out"
    lines = table_of(means)
    definitions = (attention.__doc__ or "").split("\n- ")
    render_page(
        "diagnose.html.j2",
        folder / "diagnose.html",
        title="Where the model looks",
        subtitle=f"{model_name}: {title}",
        lines=lines,
        definitions=[definitions[0].split("\n\n")[1], *definitions[1:]],
        cards_shown=cards,
    )
    print_table(lines, title)
    print(f"{folder / 'diagnose.json'}\n{folder / 'diagnose.html'}")
    return report
