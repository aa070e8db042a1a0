"""The time of what asks a model outside training: mining, and the held-out evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from evaluation.recipe import EvalRecipe
from grpo.mine import MineConfig
from pipeline.recipe import load_config
from tools.plan.compute import sampling_seconds

if TYPE_CHECKING:
    from tools.plan.report import Setting

VLLM_BATCH = 256  # sequences that vLLM runs at once at most, its default (max_num_seqs)


def count_rows(file: Path) -> int | None:
    """The rows in `file`; None where it is not there."""
    return int(pq.read_metadata(file).num_rows) if file.exists() else None


def hours(setting: Setting, completions: int, backend: str, batch_size: int) -> str:
    """The GPU hours for `completions` of mean rows, in words."""
    speed = setting.card.flops * setting.assumed.utilization
    if backend == "openai" or not speed:
        return "; time: not estimated"
    vllm = backend == "vllm"
    options = {**setting.stage.options, "use_vllm": vllm, "load_in_4bit": False}
    batch = min(VLLM_BATCH, 16 * batch_size) if vllm else batch_size
    seconds = sampling_seconds(setting.model, options, setting.rows, completions, batch, setting.card, speed)
    return f"; {seconds / 3600:,.1f} GPU hours"


def describe_sampling(setting: Setting, folder: Path) -> list[str]:
    """A line each for `mine.yaml` and `eval.yaml` in `folder`, where they are, on rows as long as those of `setting`."""
    lines, assumed = [], setting.assumed.rows
    if (folder / "mine.yaml").exists():
        mine = load_config(folder / "mine.yaml", MineConfig)
        there = count_rows(mine.run_dir / "data" / "rl.parquet")
        rows = there if there is not None else mine.max_candidates or assumed["rl"]
        rows = min(rows, mine.max_candidates or rows)
        took = hours(setting, rows * mine.samples, mine.backend, mine.batch_size)
        lines.append(f"mining: {rows:,} rows x {mine.samples} verdicts by {mine.backend}{took}")
    if (folder / "eval.yaml").exists():
        recipe = load_config(folder / "eval.yaml", EvalRecipe)
        heldout = count_rows(recipe.run_dir / "data" / "heldout.parquet") or assumed["heldout"]
        models = len(recipe.models())
        took = hours(setting, heldout * models, recipe.backend, recipe.batch_size)
        lines.append(
            f"evaluation: {models} models x {heldout:,} held-out rows by {recipe.backend}, in one process{took}"
        )
    return lines
