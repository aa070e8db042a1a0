"""Times a recipe's training steps on this GPU, with random weights: nothing is downloaded, no data is needed.

    python -m tools.gpu_check [--recipe recipes/spatialreward-8b] [--out FILE.json]

Stage 1: a step; stage 2: a rollout and an update; peak memory against the estimate of `make plan`; the attention kernel;
a tiny model's losses on the GPU against the CPU's. Where trl and datasets are installed, the two trainers' own steps too.
Prints a table and writes JSON. A card that is too small gets fewer rows, and what was skipped is said.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from tools.gpu_check.shapes import Shapes

TINY = Path("recipes/tiny")
LAST_START = 270  # seconds after which the trainers are not started, so that all is over within eight minutes
ROOM = 1.25  # of the weights: what a card needs for a step of one row


def trainers_missing() -> list[str]:
    """Packages that the trainers' own steps need and that are not installed."""
    return [name for name in ("trl", "datasets", "torchvision", "pydantic") if find_spec(name) is None]


def check(shapes: Shapes, device: torch.device, begin: float) -> dict[str, Any]:
    """Everything that is measured, and `skipped`: part -> why."""
    from tools.gpu_check import parts
    from tools.gpu_check.shapes import shapes_of

    skipped: dict[str, str] = {}
    card = parts.the_card(device)
    found: dict[str, Any] = {"card": card, "tiny_losses": parts.tiny_losses(shapes_of(TINY), device)}
    weights = weight_bytes(shapes)
    if card["memory_bytes"] and card["memory_bytes"] < ROOM * weights:
        skipped["sft, grpo, trainers"] = f"{weights / 1e9:.1f} GB of weights need a larger card"
        return {**found, "skipped": skipped}
    model, found["model"] = parts.build(shapes, device)
    found["sft"] = parts.sft(model, shapes, device, card)
    rows = (found["sft"] or {"rows": 1})["rows"]
    found["estimate"] = parts.estimate(model, shapes, rows)
    found["grpo"] = parts.grpo(model, shapes, device, card)
    for name in ("sft", "grpo"):
        if found[name] is None:
            skipped[name] = "out of memory with a single row"
    if found["sft"] and rows < shapes.sft_rows:
        skipped[f"sft at {shapes.sft_rows} rows"] = f"out of memory: {rows} at a time"
    for part, wanted in (("generation", shapes.completions), ("update", shapes.update_rows)):
        if found["grpo"] and found["grpo"][part]["rows"] < wanted:
            skipped[f"{part} of {wanted} completions"] = f"out of memory: {found['grpo'][part]['rows']} at a time"
    del model
    gc.collect()
    torch.cuda.empty_cache()
    if missing := trainers_missing():
        skipped["trainers"] = f"{', '.join(missing)} not installed: the steps above are the model's alone"
    elif time.perf_counter() - begin > LAST_START:
        skipped["trainers"] = f"the steps above took {time.perf_counter() - begin:.0f} s"
    else:
        from tools.gpu_check.trainers import trainer_steps

        try:
            found["trainers"] = trainer_steps(shapes, device)
        except torch.OutOfMemoryError:
            skipped["trainers"] = "out of memory"
    return {**found, "skipped": skipped}


def weight_bytes(shapes: Shapes) -> int:
    """Bytes of the model's weights, counted on the meta device."""
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(shapes.config, dtype=getattr(torch, shapes.dtype))
    return sum(parameter.nbytes for parameter in model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", type=Path, default=Path("recipes/spatialreward-8b"), help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="JSON file (default: runs/gpu-check/CARD.json)")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for small recipes such as recipes/tiny")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "error: no CUDA device: run this on the GPU machine (--device cpu --recipe recipes/tiny tries it out here)"
        )
    from tools.gpu_check.shapes import shapes_of  # seconds to import, like the rest: not before there is a device
    from tools.gpu_check.table import lines

    begin = time.perf_counter()
    try:
        shapes = shapes_of(arguments.recipe)
    except (OSError, KeyError) as error:
        sys.exit(
            f"error: {arguments.recipe}: not a recipe with data.yaml, sft.yaml, grpo.yaml and a configuration: {error}"
        )
    found = check(shapes, torch.device(arguments.device), begin)
    found |= {
        "recipe": str(arguments.recipe),
        "seconds": time.perf_counter() - begin,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda},
    }
    out = arguments.out or Path("runs/gpu-check") / f"{found['card']['name'].lower().replace(' ', '-')}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=2) + "\n")
    table = lines(found)
    width = max(len(what) for what, _ in table)
    for what, value in table:
        print(f"{what:<{width}}  {value}")
    print(f"{out}: written, {found['seconds']:.0f} s")
    if not found["tiny_losses"]["agree"]:
        sys.exit("error: the device does not compute the CPU's losses")


if __name__ == "__main__":
    main()
