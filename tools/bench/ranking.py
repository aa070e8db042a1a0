"""Does a model rank? Draws the four ranking benchmarks in their public schemas, asks the model, and compares it with chance.

    python -m tools.bench.ranking            # after `make demo`; the benchmarks are drawn once, into runs/tiny

On each benchmark, the 95 % interval of pair accuracy with ties at half credit must be above 0.5, which a scorer that does not
see the images gets; on the held-out rows, score agreement and reward must be above the model's own blind row, intervals apart.
Prints what holds, and exits with status 1 if something does not. Verdicts are kept: the same command continues a stopped run.
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


def row(name: str, value: float, interval: list[float], bound: float, bound_name: str) -> list[str]:
    """A line of the table: the figure with its interval, the bound it has to exceed, and whether it does."""
    low, high = interval
    return [name, f"{value:.3f} [{low:.3f}, {high:.3f}]", f"{bound:.3f} {bound_name}", "yes" if low > bound else "NO"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("recipes/tiny/eval.yaml"), help="(default: %(default)s)")
    parser.add_argument("--model", help="checkpoint folder (default: the recipe's merge)")
    parser.add_argument(
        "--samples", type=int, default=200, help="samples of each benchmark and size (default: %(default)s)"
    )
    parser.add_argument(
        "--image_size", type=int, default=64, help="side of a drawn image in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--expected_score",
        action="store_true",
        help="also report expected scores (probability-weighted over score tokens)",
    )
    parser.add_argument("--overwrite", action="store_true", help="start over")
    arguments = parser.parse_args()
    recipe = load_config(arguments.config, EvalRecipe)
    model = arguments.model or str(recipe.run_dir / "merge")
    drawn = recipe.run_dir / f"synthetic-benchmarks-{arguments.samples}-{arguments.image_size}"
    if not drawn.exists():
        with atomic_directory(drawn) as folder:
            write_benchmarks(folder, arguments.samples, side=arguments.image_size)
    command = [sys.executable, "-m", "evaluation", "bench", "all", "--config", str(arguments.config)]
    command += ["--model", model, "--data", str(drawn)]
    command += [f"--{name}" for name in ("overwrite", "expected_score") if getattr(arguments, name)]
    subprocess.run(command, check=True)

    def figures(bench: str, blind: bool = False, scoring: str = "honest") -> Any:
        return json.loads((output_folder(recipe, bench, config, blind) / "scores.json").read_bytes())[scoring]

    options = {"bench": "all", "config": arguments.config, "model": model, "expected_score": arguments.expected_score}
    config = BenchmarkConfig.model_validate(options)
    lines = [["figure", "model [95 %]", "must be above", "holds"]]
    name = "pair_accuracy_half"
    for bench in BENCHMARKS:
        scores = figures(bench)
        lines.append(row(f"{bench}: ties at half credit", scores[name], scores["intervals"][name], 0.5, "(chance)"))
        if arguments.expected_score:
            scores = figures(bench, scoring="expected")
            lines.append(row(f"{bench}: by expected scores", scores[name], scores["intervals"][name], 0.5, "(chance)"))
    seeing, blind = figures("heldout"), figures("heldout", blind=True)
    for name in HELDOUT:
        bound = blind["intervals"][name][1]
        lines.append(
            row(f"heldout: {name}", seeing[name], seeing["intervals"][name], bound, "(upper end of the blind row)")
        )
    print_table(lines, f"{model} on drawn benchmarks")
    sys.exit(any(line[-1] == "NO" for line in lines[1:]))


if __name__ == "__main__":
    main()
