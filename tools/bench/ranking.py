"""Does a model rank? Draws the four ranking benchmarks in their public schemas, asks the model, and holds it against chance.

    python -m tools.bench.ranking            # after `make demo`; runs/tiny/synthetic-benchmarks is drawn once

Of each benchmark, pairs right with ties at half credit must have their 95 % interval above 0.5, what a scorer that never saw
the pictures gets; on the held-out rows score agreement and reward must be above the model's own blind row, intervals apart.
Says what is met, and fails where something is not. Verdicts are kept: the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from evaluation.benchmarks import BENCHMARKS
from evaluation.benchmarks.draw import write_benchmarks
from evaluation.benchmarks.run import output_folder
from evaluation.options import BenchmarkConfig
from evaluation.recipe import EvalRecipe
from evaluation.terminal import print_table
from pipeline.folders import atomic_directory
from pipeline.recipe import load_config

HELDOUT = ("score_agreement", "reward")


def row(what: str, value: float, interval: list[float], bound: float, against: str) -> list[str]:
    """A line of the table: the figure with its interval, what it has to be above, and whether it is."""
    low, high = interval
    return [what, f"{value:.3f} [{low:.3f}, {high:.3f}]", f"{bound:.3f} {against}", "yes" if low > bound else "NO"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("recipes/tiny/eval.yaml"), help="(default: %(default)s)")
    parser.add_argument("--model", help="checkpoint folder (default: the recipe's merge)")
    parser.add_argument("--samples", type=int, default=200, help="of each benchmark and size (default: %(default)s)")
    parser.add_argument("--side", type=int, default=64, help="of a drawn picture, in pixels (default: %(default)s)")
    parser.add_argument("--expected_score", action="store_true", help="show expected scores beside the said ones")
    parser.add_argument("--overwrite", action="store_true", help="ask again what has been asked")
    arguments = parser.parse_args()
    recipe = load_config(arguments.config, EvalRecipe)
    model = arguments.model or str(recipe.run_dir / "merge")
    drawn = recipe.run_dir / f"synthetic-benchmarks-{arguments.samples}-{arguments.side}"
    if not drawn.exists():
        with atomic_directory(drawn) as folder:
            write_benchmarks(folder, arguments.samples, side=arguments.side)
    command = [sys.executable, "-m", "evaluation", "bench", "all", "--config", str(arguments.config)]
    command += ["--model", model, "--data", str(drawn)]
    command += [f"--{name}" for name in ("overwrite", "expected_score") if getattr(arguments, name)]
    subprocess.run(command, check=True)

    def figures(bench: str, blind: bool = False, scoring: str = "honest") -> Any:
        return json.loads((output_folder(recipe, bench, config, blind) / "scores.json").read_text())[scoring]

    config = BenchmarkConfig(bench="all", config=arguments.config, model=model, expected_score=arguments.expected_score)
    lines = [["what", "model [95 %]", "to be above", "met"]]
    name = "pair_accuracy_half"
    for bench in BENCHMARKS:
        found = figures(bench)
        lines.append(row(f"{bench}: ties at half credit", found[name], found["intervals"][name], 0.5, "(chance)"))
        if arguments.expected_score:
            found = figures(bench, scoring="expected")
            lines.append(row(f"{bench}: by expected scores", found[name], found["intervals"][name], 0.5, "(chance)"))
    seen, blind = figures("heldout"), figures("heldout", blind=True)
    for name in HELDOUT:
        bound = blind["intervals"][name][1]
        lines.append(
            row(f"heldout: {name}", seen[name], seen["intervals"][name], bound, "(upper end of the blind row)")
        )
    print_table(lines, f"{model} on drawn benchmarks")
    sys.exit(any(line[-1] == "NO" for line in lines[1:]))


if __name__ == "__main__":
    main()
