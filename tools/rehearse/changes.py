"""What a rehearsal changes of a recipe, and the copy of the recipe with the changes: its files extend the recipe's own."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import yaml

from pipeline.recipe import config_folder, read_yaml
from spatial_edit_reward.errors import UserError

Weights = Literal["shrunk", "random-full"]
Changes = dict[str, dict[str, Any]]  # name of a stage's file -> option -> value

# A row of the 8B recipe has up to 1,500 tokens, and a token 151,936 logits: a batch of the recipe's size takes 50 GB here.
PROCESSES = 2
BENCHMARKS = {
    "merbench": "MER-Bench",
    "editreward-bench": "EditReward-Bench",
    "tiger-editreward-bench": "TIGER-EditReward-Bench",
    "mmrb2": "MMRB2",
}
ON_CPU = {"use_cpu": True, "per_device_train_batch_size": 1, "dataloader_num_workers": 1}
FEW_STEPS = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "logging_steps": 1, "report_to": "none"}


def stage_files(recipe: Path) -> list[str]:
    """The names of the recipe's stages, in the order in which they run: data, sft, mine, grpo, grpo-paper, eval."""
    order = ("data", "sft", "mine", "grpo", "eval")
    files = [file.stem for name in order for file in sorted(recipe.glob(f"{name}*.yaml"), key=lambda file: file.stem)]
    missing = [name for name in ("data", "sft", "grpo", "eval") if name not in files]
    if missing:
        raise UserError(f"{recipe}: no {missing[0]}.yaml: it is no recipe that can be rehearsed")
    return files


def find_config(recipe: Path) -> Path:
    """The folder with the `config.json` of the recipe, or of one that its sft.yaml extends. Raises UserError without one."""
    folder = config_folder(recipe / "sft.yaml")
    if folder is None:
        raise UserError(
            f"{recipe}: no config.json there, so the shape of its model is unknown; `tiny` is run by make demo"
        )
    return folder


def engine_of(recipe: Path, stage: str, weights: Weights) -> tuple[str, int]:
    """The engine of a stage by the recipe's plan.yaml, and its processes here: PROCESSES on a CPU, else one for each GPU."""
    plan = read_yaml(recipe / "plan.yaml") if (recipe / "plan.yaml").exists() else {}
    engine = plan.get("stages", {}).get(stage, {}).get("engine") or plan.get("engine", "single")
    if engine == "single" or weights == "shrunk":
        return engine, 1 if engine == "single" else PROCESSES
    import torch

    return engine, max(1, torch.cuda.device_count())


def make_changes(recipe: Path, weights: Weights, judge_url: str) -> Changes:
    """What is changed of each file of `recipe`: few steps; on a CPU batches of one row; no vLLM where there is none."""
    changes: Changes = {}
    for name in stage_files(recipe):
        options, (_, processes) = read_yaml(recipe / f"{name}.yaml"), engine_of(recipe, name, weights)
        here = changes.setdefault(name, {})
        if name.startswith(("sft", "grpo")):
            here |= FEW_STEPS
        if weights == "shrunk" and name.startswith(("sft", "grpo")):
            here |= ON_CPU | ({"ddp_backend": "gloo"} if processes > 1 else {})
        if name.startswith("sft"):
            here |= {"eval_steps": 2}
            if weights == "shrunk":
                here |= {"gradient_accumulation_steps": 2, "per_device_eval_batch_size": 1}
        if name.startswith("grpo"):
            if weights == "shrunk":
                group = options["num_generations"]
                here |= {"gradient_accumulation_steps": max(1, group // processes)}
            if options.get("use_vllm") and find_spec("vllm") is None:
                here["use_vllm"] = False
            rewards = [_with_url(entry, judge_url) for entry in options["reward_funcs"]]
            if rewards != options["reward_funcs"]:
                here["reward_funcs"] = rewards
        if name == "mine":
            here["max_candidates"] = 8
        if options.get("backend") == "vllm" and find_spec("vllm") is None:
            here["backend"] = "transformers"
    return changes


def _with_url(entry: Any, url: str) -> Any:
    """A reward of `reward_funcs` that asks the endpoint at `url` instead of its own, if it asks one."""
    if not isinstance(entry, Mapping):
        return entry
    return {
        name: {**(given or {}), "base_url": url} if "base_url" in (given or {}) else given
        for name, given in entry.items()
    }


def write_copy(recipe: Path, folder: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes `folder`/recipes/NAME with the changes; what is no YAML file, recipes/accelerate and the benchmarks are links."""
    copy = folder / "recipes" / recipe.name
    copy.mkdir(parents=True, exist_ok=True)
    for other in recipe.absolute().iterdir():
        if other.suffix != ".yaml" and not (copy / other.name).is_symlink():
            (copy / other.name).symlink_to(other)
    for file in recipe.absolute().glob("*.yaml"):
        content = {"extends": str(file), **changes.get(file.stem, {})}
        (copy / file.name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    (folder / "benchmarks").mkdir(exist_ok=True)
    for name, public in BENCHMARKS.items():
        if not (folder / "benchmarks" / name).is_symlink():
            (folder / "benchmarks" / name).symlink_to(Path("..", "raw-benchmarks", public))
    if not (folder / "recipes" / "accelerate").is_symlink():
        (folder / "recipes" / "accelerate").symlink_to(recipe.absolute().parent / "accelerate")
