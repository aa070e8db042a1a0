"""Runs a recipe from its public data to a served model on this machine, as it is but for the weights.

    python -m tools.rehearse recipes/NAME [--weights shrunk|random-full] [--rows 120] [--side 512]

Every stage is the command that a user gives, on the public datasets' shapes, with the real tokenizer, prompts, image sizes and
options. `shrunk`: the architecture of the recipe's config.json with few and narrow layers, on a CPU; `random-full`: all of it,
random, on GPUs. What is changed of the recipe is printed first. Ends with a table, also as rehearsal.json in the folder, and
with exit status 1 where a stage fails. A rehearsal that was stopped or failed goes on with its first stage that is not done.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.folders import stage_output
from spatial_edit_reward.errors import UserError, one_line_errors
from spatial_edit_reward.files import write_json
from tools.rehearse.changes import engine_of, find_config, make_changes, stage_files, write_copy
from tools.rehearse.compare import compare_plan, compared_lines
from tools.rehearse.process import Measured, run_measured
from tools.rehearse.stages import Stage, make_stages, python

ROOT = Path(__file__).parents[2]
FILE = "rehearsal.json"


@contextmanager
def local_services(judge_port: int) -> Iterator[dict[str, str]]:
    """A Hub and a judge on this machine until the block ends: the variables under which the stages reach them.

    `judge_port`: 0 for any; a rehearsal that goes on keeps its own, which is part of its recipe.
    """
    from tests.endpoint import Endpoint, chat
    from tests.export.hub import TOKEN, Hub

    try:
        hub, judge = Hub(), Endpoint(judge_port)
    except OSError as error:
        raise UserError(
            f"port {judge_port} of this rehearsal's judge: {error.strerror}; OVERWRITE=1 takes another"
        ) from None
    judge.answer = lambda number, body: chat(json.dumps({"consistency": number % 5 / 4}))
    thread = threading.Thread(target=judge.serve_forever, daemon=True)
    thread.start()
    try:
        yield {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "JUDGE_URL": judge.base_url}
    finally:
        for server in (hub, judge):
            server.shutdown()
            server.server_close()


def environment(services: dict[str, str], stage: str) -> dict[str, str]:
    """Of a stage: no Hub but the local one, which `push` alone may reach; its modules are those of this checkout."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"  # DeepSpeed looks for ninja there
    offline = {"HF_HUB_OFFLINE": "0" if stage == "push" else "1", "HF_HUB_DISABLE_XET": "1", "WANDB_MODE": "offline"}
    here = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PATH": path,
        "NO_PROXY": "127.0.0.1",
        "OPENAI_API_KEY": "none",
    }
    return {**os.environ, **services, **offline, **here, "TOKENIZERS_PARALLELISM": "false"}


def report_of(stage: Stage, measured: Measured, run: Path) -> dict[str, Any]:
    """The stage's line of the table and of rehearsal.json."""
    outcome = stage.outcome(run)
    return {
        "stage": stage.name,
        "seconds": round(measured.seconds, 1),
        "cpu_seconds": round(measured.cpu_seconds, 1),
        "peak_bytes": measured.peak_bytes,
        "peak_bytes_together": measured.peak_bytes_together,
        "rows_in": outcome.rows_in,
        "rows_out": outcome.rows_out,
        "rewards_applied": dict(outcome.rewards),
        "warnings": measured.warnings,
    }


def print_table(lines: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    head = ("stage", "seconds", "of CPU", "GiB, one process", "GiB, all", "rows in", "rows out", "rewards applied")
    table = Table(*head, "distinct warnings")
    for line in lines:
        rewards = ", ".join(f"{name} {a} of {b}" for name, (a, b) in line["rewards_applied"].items())
        table.add_row(
            line["stage"],
            f"{line['seconds']:.0f}",
            f"{line['cpu_seconds']:.0f}",
            f"{line['peak_bytes'] / 2**30:.2f}",
            f"{line['peak_bytes_together'] / 2**30:.2f}",
            *("" if line[key] is None else f"{line[key]:,}" for key in ("rows_in", "rows_out")),
            rewards,
            str(len(set(line["warnings"]))),
        )
    console = Console(highlight=False, width=160)
    console.print(table)
    for line in lines:
        if line["warnings"]:
            console.print(f"{line['stage']}, first warning: {line['warnings'][0][:300]}", markup=False)


def rehearse(recipe: Path, folder: Path, arguments: argparse.Namespace) -> None:
    """Runs what is not done yet in `folder`; prints and writes the table. Raises UserError where a stage fails."""
    file, run = folder / FILE, folder / "runs" / recipe.name
    before: dict[str, Any] = {"stages": [], "judge_port": 0}
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
    done = before["stages"]
    with local_services(before["judge_port"]) as services:
        changes = make_changes(recipe, arguments.weights, services["JUDGE_URL"])
        write_copy(recipe, folder, changes)
        print(f"{recipe}, weights: {arguments.weights}; in {folder}; changed of the recipe:")
        for name, options in changes.items():
            print(f"  {name}.yaml: {', '.join(f'{key}: {value}' for key, value in options.items()) or 'nothing'}")
        for stage in make_stages(recipe, arguments.weights, arguments.rows, arguments.side):
            if stage.name in [line["stage"] for line in done]:
                continue
            print(f"== {stage.name}: python {' '.join(stage.command)}", flush=True)
            if stage.command[1] == "tests.public_shapes":
                shutil.rmtree(folder / stage.command[2], ignore_errors=True)  # what a kill left
            log = folder / "logs" / f"{stage.name.replace(' ', '-')}.txt"
            measured = run_measured(python(stage.command), folder, log, environment(services, stage.name))
            if measured.status:
                if done:
                    print_table(done)
                raise UserError(
                    f"{stage.name} ended with status {measured.status} ({log}):\n" + "\n".join(measured.errors)
                )
            done.append(report_of(stage, measured, run))
            for name, (applied, steps) in done[-1]["rewards_applied"].items():
                if steps and not applied:
                    raise UserError(f"{stage.name}: {name} applied to no row in {steps} steps")
            print(f"   {measured.seconds:.0f} s, {measured.peak_bytes / 2**30:.2f} GiB", flush=True)
            port = urlsplit(services["JUDGE_URL"]).port
            about = {"recipe": str(recipe), "weights": arguments.weights, "changes": changes, "judge_port": port}
            write_json(file, about | {"stages": done})
    print_table(done)
    processes = {
        name: engine_of(recipe, name, arguments.weights)[1] for name in changes if name.startswith(("sft", "grpo"))
    }
    compared = compare_plan(folder, recipe.name, done, processes)
    print("\n".join(compared_lines(compared)))
    write_json(file, json.loads(file.read_text(encoding="utf-8")) | {"plan": compared})
    print(f"{file}: {len(done)} stages in {sum(line['seconds'] for line in done) / 60:.0f} minutes")


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.rehearse", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path, help="recipe folder")
    parser.add_argument("--weights", choices=("shrunk", "random-full"), default="shrunk")
    parser.add_argument("--rows", type=int, default=120, help="edits of each dataset (default: %(default)s)")
    parser.add_argument("--side", type=int, default=512, help="of an image, in pixels (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where everything is written (default: runs/rehearse/NAME)")
    parser.add_argument("--overwrite", action="store_true", help="start over")
    arguments = parser.parse_args()
    recipe, folder = arguments.recipe, arguments.folder or Path("runs/rehearse") / arguments.recipe.name
    files = stage_files(recipe)
    find_config(recipe)

    def fingerprint() -> dict[str, Any]:
        from pipeline.recipe import read_yaml

        how = {name: getattr(arguments, name) for name in ("weights", "rows", "side")}
        return {"recipe": {name: read_yaml(recipe / f"{name}.yaml") for name in files}, **how}

    with stage_output(folder, fingerprint, overwrite=arguments.overwrite, outputs=[FILE]) as output:
        if output is None:
            print_table(json.loads((folder / FILE).read_text(encoding="utf-8"))["stages"])
            return
        rehearse(recipe, output.absolute(), arguments)


if __name__ == "__main__":
    main()
