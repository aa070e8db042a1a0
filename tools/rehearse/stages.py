"""The stages of a rehearsal: each is the command that a user gives, run in a folder that holds `raw`, `recipes` and `runs`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pipeline.recipe import kind_of, read_yaml
from tools.rehearse.changes import Weights, engine_of, stage_files

REPO = "rehearsal/model"


class Outcome(NamedTuple):
    """Rows that went in and came out, and how often each reward applied: (rows with a number, rows)."""

    rows_in: int | None = None
    rows_out: int | None = None
    rewards: Mapping[str, tuple[int, int]] = MappingProxyType({})


class Stage(NamedTuple):
    """A command, by the arguments after `python`, and what its files say when it has ended."""

    name: str
    command: list[str]
    outcome: Callable[[Path], Outcome] = lambda run: Outcome()


def make_stages(recipe: Path, weights: Weights, rows: int, side: int) -> list[Stage]:
    """Every stage of `recipe` in order."""
    name, files = recipe.name, stage_files(recipe)
    folder, run = f"recipes/{name}", f"runs/{name}"
    base = str(read_yaml(recipe / "sft.yaml")["model_name_or_path"])

    def launched(stage: str, module: str) -> list[str]:
        engine, processes = engine_of(recipe, stage, weights)
        module_arguments = ["-m", module, "--config", f"{folder}/{stage}.yaml"]
        if engine == "single":
            return module_arguments
        launcher = ["-m", "accelerate.commands.launch", "--config_file", f"recipes/accelerate/{engine}.yaml"]
        return [*launcher, "--num_processes", str(processes), *module_arguments]

    def shapes(target: str, count: int) -> list[str]:
        return ["-m", "tests.public_shapes", target, "--rows", str(count), "--size", str(side), str(side)]

    stages = [
        Stage("public shapes", shapes("raw", rows)),
        Stage("data", ["-m", "data", "--config", f"{folder}/data.yaml"], data_rows),
        Stage("base", ["-m", "tools.rehearse.base", folder, "--weights", weights, "--output_dir", base]),
        Stage("plan", ["-m", "tools.plan", folder]),
    ]
    rows_of = {"sft": "data/train.parquet", "grpo": "mine/rl.parquet"}
    for file in files:
        kind = kind_of(Path(file))
        if kind in rows_of:
            outcome = trained_rows(file, rows_of[kind], engine_of(recipe, file, weights)[1])
            stages.append(Stage(file, launched(file, kind), outcome))
        elif file == "mine":
            stages.append(Stage(file, launched(file, "grpo.mine"), mined_rows))
    trained = "--adapter" if read_yaml(recipe / "grpo.yaml").get("use_peft") else "--checkpoint"
    result = f"{run}/grpo/{'adapter' if trained == '--adapter' else 'weights'}"
    merge = ["--base", f"{run}/sft/merged", trained, result, "--output_dir", f"{run}/merge"]
    evaluated = ["--config", f"{folder}/eval.yaml"]
    if weights == "random-full":
        for stage in ("sft", "grpo"):  # seconds, operations and GPU memory of a step, as runs/NAME/timing/STAGE.json
            stages.append(Stage(f"{stage} timing", [*launched(stage, stage), "--random_weights"]))
    stages += [
        Stage("merge", ["-m", "export", "merge", *merge]),
        Stage("eval", ["-m", "evaluation", "heldout", *evaluated], heldout_rows),
        Stage("report", ["-m", "evaluation", "report", *evaluated]),
        Stage("benchmark shapes", shapes("raw-benchmarks", 6)),
        Stage(
            "benchmarks",
            ["-m", "evaluation", "bench", "all", *evaluated, "--model", f"{run}/merge", "--data", "benchmarks"],
            benchmark_rows,
        ),
        Stage("push", ["-m", "export", "push", run, "--repo", REPO, "--confirm"]),
        Stage("serve", ["-m", "tools.rehearse.serve", f"{run}/merge", f"{run}/data"]),
    ]
    return stages


def count_rows(file: Path) -> int:
    import pyarrow.parquet

    return int(pyarrow.parquet.ParquetFile(file).metadata.num_rows)


def data_rows(run: Path) -> Outcome:
    sources = json.loads((run / "data" / "data_report.json").read_text(encoding="utf-8"))["sources"].values()
    return Outcome(sum(source["in"] for source in sources), sum(source["kept"] for source in sources))


def trained_rows(stage: str, rows: str, processes: int) -> Callable[[Path], Outcome]:
    """Of a training stage: the rows it could take, rows or completions of its steps, in how many steps each reward applied."""

    def outcome(run: Path) -> Outcome:
        state = json.loads((run / stage / "trainer_state.json").read_text(encoding="utf-8"))
        means: dict[str, list[float | None]] = {}  # null where the reward applied to no completion of a step
        for entry in state["log_history"]:
            for key, value in entry.items():
                if key.startswith("rewards/") and key.endswith("/mean"):
                    means.setdefault(key.split("/")[1], []).append(value)
        applied = {
            name: (sum(value is not None and not math.isnan(value) for value in of), len(of))
            for name, of in means.items()
        }
        options = read_yaml(run.parent.parent / "recipes" / run.name / f"{stage}.yaml")
        each = options["per_device_train_batch_size"] * options["gradient_accumulation_steps"] * processes
        return Outcome(count_rows(run / rows), state["global_step"] * each, applied)

    return outcome


def mined_rows(run: Path) -> Outcome:
    return Outcome(count_rows(run / "data" / "rl.parquet"), count_rows(run / "mine" / "rl.parquet"))


def heldout_rows(run: Path) -> Outcome:
    """Rows, and the responses of all models to them."""
    lines = [len(file.read_text(encoding="utf-8").split("\n")) - 2 for file in (run / "eval").glob("*.jsonl")]
    return Outcome(count_rows(run / "data" / "heldout.parquet"), sum(lines))


def benchmark_rows(run: Path) -> Outcome:
    """Samples of all benchmarks, and those with a score for every candidate."""
    scores = [json.loads(file.read_text(encoding="utf-8"))["honest"] for file in run.glob("benchmarks/*/*/scores.json")]
    return Outcome(sum(one["samples"] for one in scores), sum(one.get("complete_samples", 0) for one in scores))


def python(command: list[str]) -> list[str]:
    return [sys.executable, *command]
