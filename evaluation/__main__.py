"""What models say: held-out verdicts, public benchmarks, the reports over them, hard rows for stage 2, one pair, attention.

python -m evaluation heldout --config recipes/tiny/eval.yaml
python -m evaluation report --config recipes/tiny/eval.yaml
python -m evaluation mine --config recipes/tiny/mine.yaml        # torchrun --nproc_per_node 8 -m evaluation mine ...
python -m evaluation bench merbench --config recipes/tiny/eval.yaml --model runs/tiny/merge --data FOLDER
python -m evaluation score merbench runs/tiny/benchmarks/merbench/runs-tiny-merge/verdicts.jsonl --json
python -m evaluation try --model runs/tiny/merge --source a.png --edited b.png --instruction 'Remove the cup.' --page try.html
python -m evaluation diagnose --config recipes/tiny/eval.yaml --model runs/tiny/merge
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from data.rows import load_rows
from evaluation.benchmarks.verbs import add_benchmark_verbs, run_bench, run_score
from evaluation.recipe import EvalRecipe
from grpo.mine import MineRecipe
from pipeline.fingerprint import hash_files, hash_model
from pipeline.folders import require, require_finished, stage_lock, stage_output
from pipeline.recipe import load_config, read_yaml
from pipeline.rewards import read_rewards
from spatial_edit_reward import load_spec
from spatial_edit_reward.errors import UserError, one_line_errors


def run_heldout(recipe: EvalRecipe, overwrite: bool) -> None:
    from evaluation.heldout import write_verdicts

    rows_file = require(recipe.run_dir / "data" / "heldout.parquet", "data")
    for stage in ("sft", "grpo"):
        require_finished(recipe.run_dir / stage, stage)
    require(recipe.run_dir / "merge", "merge")

    def fingerprint() -> dict[str, Any]:
        return {
            "rows": hash_files(rows_file),
            "models": {
                name: [hash_model(weights), hash_files(adapter) if adapter else None]
                for name, (weights, adapter) in recipe.models().items()
            },
        }

    names = [f"{name}.jsonl" for name in recipe.models()]
    with stage_output(recipe.run_dir / "eval", fingerprint, overwrite=overwrite, outputs=names) as output:
        if output is None:
            return
        spec = load_spec(recipe.run_dir / "merge")
        rows = load_rows(rows_file, spec)
        for name, (weights, adapter) in recipe.models().items():
            write_verdicts(name, weights, adapter, rows, spec, recipe.batch_size, output / f"{name}.jsonl")


def run_report(recipe: EvalRecipe) -> None:
    from evaluation.report import make_report

    require_finished(recipe.run_dir / "eval", "eval")
    spec = load_spec(require(recipe.run_dir / "merge", "merge"))
    rows = load_rows(require(recipe.run_dir / "data" / "heldout.parquet", "data"), spec)
    with stage_lock(recipe.run_dir / "report"):
        make_report(recipe, rows, spec)


def run_mine(recipe: MineRecipe, overwrite: bool) -> None:
    import torch
    from accelerate import PartialState

    from pipeline.distributed import destroy_process_group, on_main_process

    model = recipe.run_dir / "sft" / "merged"
    rows_file = require(recipe.candidates or recipe.run_dir / "data" / "rl.parquet", "data")
    require(model, "sft")
    selected = read_rewards(recipe.rewards_from, score_range=load_spec(model).score_range)
    said = recipe.model_dump(mode="json", exclude={"batch_size", "run_dir"})
    entries = read_yaml(recipe.rewards_from)
    # Without being told, accelerate takes two processes on CPUs for two runs of one process each.
    state = PartialState(cpu=not torch.cuda.is_available())

    def fingerprint() -> dict[str, Any]:
        return {
            "recipe": said,
            "rewards": [entries.get("reward_funcs"), selected.weights],
            "rows": hash_files(rows_file),
            "model": hash_model(str(model)),
        }

    with stage_output(
        recipe.run_dir / "mine",
        fingerprint,
        overwrite=overwrite,
        rebuild=True,
        outputs=["rl.parquet", "verdict.json"],
        on_main=on_main_process,
    ) as output:
        if output is None:
            destroy_process_group()
            return

        from grpo.mine import mine, write_samples

        write_samples(recipe, str(model), rows_file, output / "samples", state.process_index, state.num_processes)
        destroy_process_group()
        if state.is_main_process:
            mine(recipe, str(model), rows_file, selected.rewards, selected.weights, output)


def run_try(arguments: argparse.Namespace) -> None:
    if not arguments.instruction.strip():
        raise UserError("give the editing instruction: INSTRUCTION='...'")
    for file, name in ((arguments.source, "SOURCE"), (arguments.edited, "EDITED")):
        if not file.is_file():
            raise UserError(f"{name}: {file}: no such image")
    from evaluation.try_pair import try_pair

    try_pair(arguments.model, arguments.source, arguments.edited, arguments.instruction, arguments.page)


def run_diagnose(recipe: EvalRecipe, model: str, named: Path | None, count: int) -> None:
    if count < 1:
        raise UserError(f"--count {count}: at least one row")
    rows_file = require(recipe.run_dir / "data" / "heldout.parquet", "data")
    from evaluation.diagnose import diagnose
    from spatial_edit_reward.inference.backends import load_model_spec

    spec = load_model_spec(model, named)
    diagnose(model, spec, load_rows(rows_file, spec), count, recipe.run_dir / "diagnose")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, what, recipe in (
        ("heldout", "write the verdicts of every model", "eval.yaml"),
        ("report", "the report over the verdicts", "eval.yaml"),
        ("mine", "keep the rows on which stage 1's model earns little, but something", "mine.yaml"),
    ):
        stage = verbs.add_parser(verb, help=what)
        stage.add_argument("--config", type=Path, required=True, help=f"the recipe's {recipe}")
        stage.add_argument("--overwrite", action="store_true", help="start over")
    add_benchmark_verbs(verbs)
    trying = verbs.add_parser("try", help="one model's verdicts on one pair, as a page")
    trying.add_argument("--model", required=True, help="folder of a checkpoint with its verdict.json")
    trying.add_argument("--source", type=Path, required=True, help="the picture before the edit")
    trying.add_argument("--edited", type=Path, required=True, help="the picture after it")
    trying.add_argument("--instruction", required=True, help="what the editor was asked for")
    trying.add_argument("--page", type=Path, required=True, help="the HTML file to write")
    diagnosis = verbs.add_parser("diagnose", help="where a model looks while it writes verdicts")
    diagnosis.add_argument("--config", type=Path, required=True, help="the recipe's eval.yaml, for its held-out rows")
    diagnosis.add_argument("--model", required=True, help="a checkpoint's folder or Hub id")
    diagnosis.add_argument("--spec", type=Path, help="folder of the verdict.json, for a model without one")
    diagnosis.add_argument("--count", type=int, default=8, help="rows that are looked at (default: %(default)s)")
    return parser.parse_args()


@one_line_errors
def main() -> None:
    arguments = parse_arguments()
    if arguments.verb == "try":
        run_try(arguments)
    elif arguments.verb == "diagnose":
        run_diagnose(load_config(arguments.config, EvalRecipe), arguments.model, arguments.spec, arguments.count)
    elif arguments.verb == "bench":
        run_bench(arguments)
    elif arguments.verb == "score":
        run_score(arguments)
    elif arguments.verb == "mine":
        run_mine(load_config(arguments.config, MineRecipe), arguments.overwrite)
    elif arguments.verb == "heldout":
        run_heldout(load_config(arguments.config, EvalRecipe), arguments.overwrite)
    else:
        run_report(load_config(arguments.config, EvalRecipe))


if __name__ == "__main__":
    main()
