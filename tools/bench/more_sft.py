"""Is stage 2 worth its time? Trains stage 1 for as long as both stages took, and compares on the held-out rows.

    python -m tools.bench.more_sft            # after `make demo`; about as long as both of its training stages

The control is stage 1 from the start with the same recipe, but `max_steps` is scaled by (SFT + GRPO) / SFT wall time, so that
its learning-rate schedule fits its length. It trains on rows of its own, drawn from the next seed and more of them in the same
proportion, so that it sees no row more often than stage 1 did.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

import yaml

from data.rows import load_rows
from evaluation.heldout import plan_heldout, write_responses
from evaluation.metrics import METRICS, group_sums, interval, score_rows
from evaluation.recipe import EvalRecipe
from evaluation.responses import read_completions
from evaluation.terminal import print_table
from pipeline.folders import require
from pipeline.recipe import load_config, read_yaml
from pipeline.rewards import read_rewards
from spatial_edit_reward import load_spec
from tools.bench.common import format_interval


def wall_time(stage_dir: Path) -> tuple[float, int]:
    """(seconds, steps) of a finished training stage, from the Trainer's log."""
    state = json.loads(require(stage_dir / "trainer_state.json", stage_dir.name).read_bytes())
    return next(entry["train_runtime"] for entry in state["log_history"] if "train_runtime" in entry), state[
        "global_step"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipe", type=Path, default=Path("recipes/tiny"), help="recipe folder (default: %(default)s)"
    )
    recipes = parser.parse_args().recipe
    recipe = load_config(recipes / "eval.yaml", EvalRecipe)
    sft_seconds, sft_steps = wall_time(recipe.run_dir / "sft")
    grpo_seconds, _ = wall_time(recipe.run_dir / "grpo")
    steps = round(sft_steps * (sft_seconds + grpo_seconds) / sft_seconds)
    print(
        f"SFT {sft_seconds:.0f} s, {sft_steps} steps; GRPO {grpo_seconds:.0f} s; control: SFT for {steps} steps",
        flush=True,
    )
    output = recipe.run_dir / "control"
    output.mkdir(parents=True, exist_ok=True)
    drawn = read_yaml(recipes / "data.yaml")
    train = math.ceil(drawn["synthetic_groups"]["train"] * steps / sft_steps)
    changed = {"output_dir": str(output / "data"), "seed": drawn["seed"] + 1, "synthetic_groups": {"train": train}}
    (output / "data.yaml").write_text(
        yaml.safe_dump({"extends": str((recipes / "data.yaml").resolve()), **changed}), encoding="utf-8"
    )
    subprocess.run([sys.executable, "-m", "data", "--config", str(output / "data.yaml")], check=True)
    command = [sys.executable, "-m", "sft", "--config", str(recipes / "sft.yaml")]
    command += ["--data_dir", str(output / "data"), "--output_dir", str(output / "sft"), "--max_steps", str(steps)]
    subprocess.run(command, check=True)

    spec = load_spec(output / "sft" / "merged")
    rows = load_rows(recipe.run_dir / "data" / "heldout.parquet", spec)
    file = output / "control.jsonl"
    plan = plan_heldout(rows, spec)
    write_responses("control", str(output / "sft" / "merged"), None, plan, recipe.backend, recipe.batch_size, file)
    plain = list(rows.texts())
    selected = read_rewards(recipe.rewards_from, score_range=spec.score_range)
    sums = {}
    for name, verdicts in (("control", file), ("grpo", recipe.run_dir / "eval" / "grpo.jsonl")):
        completions, truncated = read_completions(verdicts, plain)
        scored = score_rows(plain, completions, selected.rewards, selected.weights, spec, rows.images())
        sums[name] = group_sums(plain, scored, truncated, spec)
    lines = [["metric", "control", "grpo", "grpo - control"]]
    for metric in METRICS:
        both = [interval(sums[name][metric], recipe.bootstrap_samples, recipe.seed) for name in ("control", "grpo")]
        difference = interval(sums["grpo"][metric], recipe.bootstrap_samples, recipe.seed, sums["control"][metric])
        lines.append([metric, *map(format_interval, both), format_interval(difference, "+")])
    print_table(lines, "GRPO against SFT of the same wall time")


if __name__ == "__main__":
    main()
