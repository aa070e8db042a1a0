"""The held-out rows: what is asked about them, and the responses of every model of a run.

A model's responses are in `runs/NAME/eval/MODEL.jsonl`, a store, so that a killed run goes on where it was. A model shows what
it knows without looking where every image is replaced by a gray one ("blind").
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, List
from datasets import Image as ImageFeature
from PIL import Image

from data.rows import load_rows
from evaluation.recipe import EvalRecipe
from evaluation.requests import EncodedImage, RequestPlan, request_id
from pipeline.fingerprint import hash_files, hash_model
from pipeline.folders import require, require_finished, stage_output
from spatial_edit_reward import Spec, load_spec
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.images import encode, fit
from spatial_edit_reward.inference.backends import open_backend
from spatial_edit_reward.inference.store import create, generate_missing, read_responses

GRAY = (128, 128, 128)


def gray_image(spec: Spec) -> bytes:
    """The PNG that stands for every image in a blind run: gray, of the largest square that the spec allows."""
    side = int(spec.pixels.max**0.5)
    return encode(fit(Image.new("RGB", (side, side), GRAY), spec.pixels), "png")


def plan_heldout(rows: Dataset, spec: Spec, blind: bool = False) -> RequestPlan:
    """The requests about canonical `rows`, whose images are opened one row at a time; `blind`: all of them gray."""
    plan = RequestPlan(spec)
    gray = gray_image(spec)
    encoded = rows.cast_column("images", List(ImageFeature(decode=False)))
    for index, row in enumerate(encoded):
        images: list[EncodedImage | None] = [gray if blind else image["bytes"] for image in row["images"]]
        key = request_id(row["task"], row["instruction"], images, spec)
        plan.rows.append(
            {name: row[name] for name in ("id", "task", "group", "instruction", "reference")} | {"key": key}
        )
        load = partial(list, images) if blind else partial(_row_images, encoded, index)
        plan.prompts.setdefault(key, (row["task"], row["instruction"], load))
    return plan


def _row_images(encoded: Dataset, index: int) -> Sequence[EncodedImage | None]:
    return [image["bytes"] for image in encoded[index]["images"]]


def write_heldout(recipe: EvalRecipe, overwrite: bool) -> None:
    """Writes the greedy verdicts of every model of the recipe on its held-out rows into `run_dir/eval`, which is then finished.

    Raises UserError where an earlier stage is missing, a model cannot be used, or a row got no response.
    """
    rows_file = require(recipe.run_dir / "data" / "heldout.parquet", "data")
    for stage in ("sft", "grpo"):
        require_finished(recipe.run_dir / stage, stage)
    merged = require(recipe.run_dir / "merge", "merge")

    def fingerprint() -> dict[str, Any]:
        models = {
            name: [hash_model(weights), hash_files(adapter) if adapter else None]
            for name, (weights, adapter) in recipe.models().items()
        }
        return {"rows": hash_files(rows_file), "models": models, "backend": recipe.backend}

    files = [f"{name}.jsonl" for name in recipe.models()]
    with stage_output(recipe.run_dir / "eval", fingerprint, overwrite=overwrite, outputs=files) as output:
        if output is None:
            return
        spec = load_spec(merged)
        plan = plan_heldout(load_rows(rows_file, spec), spec)
        for name, (weights, adapter) in recipe.models().items():
            file = output / f"{name}.jsonl"
            write_responses(name, weights, adapter, plan, recipe.backend, recipe.batch_size, file)


def write_responses(
    name: str, weights: str, adapter: Path | None, plan: RequestPlan, backend: str, batch_size: int, file: Path
) -> None:
    """Writes the greedy response of the model `name` (`weights`, with `adapter` on them) to every row that `file` lacks.

    Raises UserError where `file` holds other work, where the model cannot be used, and where a row got no response.
    """
    header = {
        "bench": "heldout",
        "model": weights,
        "weights": hash_model(weights),
        "adapter": hash_files(adapter) if adapter else None,
        "backend": backend,
        "samples": 1,
        "temperature": 0.0,
        "spec": plan.spec.model_dump(mode="json"),
        "rows": plan.rows,
    }
    create(file, header)
    generate = open_backend(backend, weights, plan.spec, batch_size=batch_size, adapter=adapter)
    # Longest prompts first: they share batches, and what does not fit in memory shows at once.
    names = sorted(plan.names(1), key=lambda one: plan.prompts[one[0]][0] == "pq")
    generate_missing(file, names, plan.request, generate, batch_size, f"held-out rows, {name}")
    del generate
    gc.collect()  # before the next model takes its place in memory
    failures = plan.failures(read_responses(file), 1)
    if failures:
        raise UserError(
            f"{file}: {len(failures)} of {len(plan.rows)} rows without a response, the first: {failures[0]}"
        )
