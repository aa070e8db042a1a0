"""`make mine`: samples stage 1's model on candidate rows, and keeps those it finds hard but not hopeless, for stage 2.

Every process writes the samples of its share of the rows as they come, under a folder named for the model and the sampling,
each with its row's hash: what is there is not generated again, after a kill as after a change of thresholds or data.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, Image, List
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from data.rows import load_rows
from pipeline.fingerprint import hash_model
from rewards_fn import weighted_mean
from rewards_fn.load import Reward, apply_rewards
from spatial_edit_reward import load_spec
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.files import read_lines, write_json
from spatial_edit_reward.inference.generation import Sampling, generate, in_batches
from spatial_edit_reward.inference.model import load_model, load_processor
from spatial_edit_reward.spec import FILE_NAME

BINS = 20


class MineRecipe(BaseModel):
    """`mine.yaml`: which rows are candidates, how the model is sampled, and what is kept."""

    model_config = ConfigDict(extra="forbid")
    run_dir: Annotated[Path, Field(description="folder of the recipe's stages: runs/NAME")]
    rewards_from: Annotated[Path, Field(description="the grpo.yaml whose rewards and weights are used")]
    candidates: Annotated[Path | None, Field(description="canonical rows; null: the data stage's rl.parquet")] = None
    samples: Annotated[int, Field(ge=2, description="verdicts per row")]
    temperature: Annotated[float, Field(gt=0)]
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_mean_reward: Annotated[float, Field(ge=0, le=1, description="a row below earns nothing: hopeless")]
    max_mean_reward: Annotated[float, Field(ge=0, le=1, description="a row above is easy")]
    min_reward_std: Annotated[float, Field(ge=0, le=1, description="standard deviation over a row's samples")]
    max_rows: Annotated[int, Field(gt=0, description="rows kept, lowest means first")] = 7000
    batch_size: Annotated[int, Field(gt=0, description="completions generated at once")]
    seed: int = 0


def row_keys(rows: Dataset) -> list[str]:
    """A hash of each row's task, instruction and image bytes: what the model's answer depends on."""
    keys = []
    for row in rows.cast_column("images", List(Image(decode=False))):
        digest = hashlib.blake2b(f"{row['task']}\0{row['instruction']}".encode(), digest_size=12)
        for image in row["images"]:
            digest.update(image["bytes"])
        keys.append(digest.hexdigest())
    return keys


def cache_of(recipe: MineRecipe, model: str, folder: Path) -> Path:
    """The folder of the samples of this model under this sampling."""
    how = f"{hash_model(model)}-{recipe.samples}x{recipe.temperature:g}-{recipe.top_p:g}-seed{recipe.seed}"
    return folder / how


def read_samples(folder: Path) -> dict[str, list[str]]:
    """Row key -> completions, of every process's file in `folder`; a line that is still being written is left out."""
    found = {}
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                content = json.loads(line)
                found[content["row"]] = content["completions"]
    return found


def write_samples(recipe: MineRecipe, model_name: str, rows_file: Path, folder: Path, rank: int, world: int) -> None:
    """Appends the samples of every `world`-th row from `rank` that no process has written yet, synced per batch."""
    spec = load_spec(Path(model_name))
    rows = load_rows(rows_file, spec)
    cache = cache_of(recipe, model_name, folder)
    cache.mkdir(parents=True, exist_ok=True)
    read_lines(cache / f"{rank}.jsonl")  # drops a line that a kill cut off
    done, keys = read_samples(cache), row_keys(rows)
    mine = list(range(rank, len(rows), world))
    left = [place for place in mine if keys[place] not in done]
    if not left:
        return
    processor = load_processor(model_name, spec)
    model = load_model(model_name, "auto", None).to(PartialState().device)
    sampling = Sampling(recipe.temperature, recipe.top_p)
    bar = tqdm(total=len(mine), initial=len(mine) - len(left), desc="samples", unit="row", disable=rank > 0)
    with (cache / f"{rank}.jsonl").open("a") as out, bar:
        for places in in_batches(len(left), max(1, recipe.batch_size // recipe.samples)):
            batch = [left[place] for place in places]
            part = [rows[place] for place in batch]
            repeated = [row for row in part for _ in range(recipe.samples)]
            messages = [prompt_messages(row["task"], row["instruction"], spec) for row in repeated]
            # By what is asked, not by what came before, so that a run that was stopped goes on as if it was not.
            torch.manual_seed(int(keys[batch[0]][:12], 16) + recipe.seed)
            images = [row["images"] for row in repeated]
            said = [one.text for one in generate(model, processor, messages, images, spec.max_new_tokens, sampling)]
            for number, place in enumerate(batch):
                completions = said[number * recipe.samples : (number + 1) * recipe.samples]
                line = {"row": keys[place], "id": rows[place]["id"], "completions": completions}
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
            out.flush()
            os.fsync(out.fileno())
            bar.update(len(batch))


def earned(
    rows: Sequence[dict[str, Any]],
    samples: Sequence[Sequence[str]],
    rewards: Sequence[Reward],
    weights: Sequence[float],
    images: Sequence[Any] | None = None,
) -> np.ndarray:
    """(rows, samples) weighted mean rewards in 0..1; NaN where no reward applies to a row.

    `images`: of each sample's row, for rewards that need them; a column that is decoded as it is read.
    """
    count = len(samples[0])
    columns: dict[str, Sequence[Any]] = {
        name: [row.get(name) for row in rows for _ in range(count)]
        for name in ("id", "task", "instruction", "reference")
    }
    if images is not None:
        columns["images"] = images
    values = apply_rewards(rewards, [text for texts in samples for text in texts], columns)
    means = [weighted_mean(row, weights) for row in zip(*values, strict=True)]
    return np.array([np.nan if mean is None else mean for mean in means]).reshape(len(rows), count)


def chosen(values: np.ndarray, recipe: MineRecipe) -> np.ndarray:
    """The places of the rows that are kept, in row order. `values`: (rows, samples) rewards in 0..1."""
    mean, spread = values.mean(axis=1), values.std(axis=1)
    hard = (mean >= recipe.min_mean_reward) & (mean <= recipe.max_mean_reward) & (spread >= recipe.min_reward_std)
    places = np.flatnonzero(hard)
    return np.sort(places[np.argsort(mean[places], kind="stable")][: recipe.max_rows])


def mine(
    recipe: MineRecipe,
    model_name: str,
    rows_file: Path,
    rewards: Sequence[Reward],
    weights: Sequence[float],
    folder: Path,
) -> None:
    """Writes `rl.parquet` with the rows that are kept, the spec and `mine_report.json` into `folder`, and prints a histogram.

    Raises UserError where no row is kept.
    """
    rows = load_rows(rows_file, load_spec(Path(model_name)))
    samples = read_samples(cache_of(recipe, model_name, folder / "samples"))
    bare = list(rows.remove_columns("images"))
    images = rows.select(np.repeat(np.arange(len(rows)), recipe.samples))["images"]
    values = earned(bare, [samples[key] for key in row_keys(rows)], rewards, weights, images)
    places = chosen(values, recipe)
    edges = np.linspace(0, 1, BINS + 1)
    mean = values.mean(axis=1)
    report = {
        "candidates": len(rows),
        "kept": len(places),
        "mean_reward": {"all": float(np.nanmean(mean)), "kept": float(mean[places].mean()) if len(places) else None},
        "histogram": {
            "edges": [round(float(edge), 3) for edge in edges],
            "all": np.histogram(mean, edges)[0].tolist(),
            "kept": np.histogram(mean[places], edges)[0].tolist(),
        },
    }
    write_json(folder / "mine_report.json", report)
    print_histogram(report)
    if not len(places):
        raise UserError(
            f"no row has a mean reward in {recipe.min_mean_reward:g}..{recipe.max_mean_reward:g} and a spread of at least "
            f"{recipe.min_reward_std:g}: see {folder / 'mine_report.json'}"
        )
    shutil.copyfile(Path(model_name) / FILE_NAME, folder / FILE_NAME)
    rows.select(places).to_parquet(str(folder / "rl.parquet"))
    print(f"{len(places)} of {len(rows)} rows kept: {folder / 'rl.parquet'} (data_dir: {folder} in grpo.yaml)")


def print_histogram(report: dict[str, Any]) -> None:
    shown = report["histogram"]
    table = Table("mean reward", title=f"{report['candidates']} candidates, {report['kept']} kept")
    table.add_column("rows", justify="right")
    table.add_column("kept", justify="right")
    table.add_column("", no_wrap=True)
    largest = max(max(shown["all"]), 1)
    for low, high, count, kept in zip(shown["edges"], shown["edges"][1:], shown["all"], shown["kept"], strict=False):
        wide, full = round(40 * count / largest), round(40 * kept / largest)
        table.add_row(f"{low:.2f}–{high:.2f}", str(count), str(kept), "█" * full + "░" * (wide - full))
    Console().print(table)
