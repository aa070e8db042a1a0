"""The data stage: turns the recipe's sources and synthetic groups into the canonical rows of every split, and the spec.

    python -m data --config recipes/tiny/data.yaml

Writes `train`, `validation`, `rl` and `heldout` Parquet files, `verdict.json` and `data_report.json` into the recipe's
`output_dir`, and prints what it fixed and dropped and why. Does nothing for the recipe and inputs that are there already.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.recipe import DataRecipe
from data.synthetic.generate import background_files
from pipeline.fingerprint import hash_files
from pipeline.folders import stage_output
from pipeline.recipe import load_config
from spatial_edit_reward import TASKS, Spec, save_spec
from spatial_edit_reward.errors import UserError, one_line, one_line_errors
from spatial_edit_reward.files import write_json

if TYPE_CHECKING:
    from data.sources import Templates


def input_states(recipe: DataRecipe) -> dict[str, Any]:
    """What the recipe reads, as far as it is known in seconds: annotation files by content, others by size and time.

    Raises UserError for backgrounds or a tokenizer that are not there.
    """
    if recipe.tokenizer and not (recipe.tokenizer / "tokenizer.json").is_file():
        raise UserError(f"tokenizer: {recipe.tokenizer}: no tokenizer.json in it")
    paths = [*(Path(source.path) for source in recipe.sources), *recipe.benchmarks]
    if recipe.backgrounds:
        background_files(recipe.backgrounds)
        paths.append(recipe.backgrounds)
    states: dict[str, Any] = {}
    for path in paths:  # but for the cache that `hf download` keeps in a folder
        below = (file for file in path.rglob("*") if ".cache" not in file.parts)
        states[str(path)] = hash_files(path) if path.is_file() else file_states(below)
    for source in recipe.sources:
        if source.images:
            states[str(source.images)] = file_states(source.images.parent.glob(f"{source.images.name}*"))
    return states


def file_states(paths: Iterable[Path]) -> list[list[Any]]:
    """Name, size in bytes and time of change of each file; of a folder, or a link that leads nowhere, the name alone."""
    stats = {path: path.stat() if path.is_file() else None for path in sorted(paths)}
    return [[path.name, stat.st_size, stat.st_mtime_ns] if stat else [path.name] for path, stat in stats.items()]


def build_spec(recipe: DataRecipe, templates: Templates) -> Spec:
    """The spec, with the prompts of the recipe or of `prompt_from`. Raises UserError where that source has none in common."""
    spec = recipe.spec()
    if recipe.prompt_from is None:
        return spec
    score_range = next(source.score_range for source in recipe.sources if source.name == recipe.prompt_from)
    prompts = {
        task: templates[recipe.prompt_from, task].spec_prompt(score_range)
        for task in TASKS
        if (recipe.prompt_from, task) in templates
    }
    if not prompts:
        raise UserError(f"prompt_from: the rows of {recipe.prompt_from!r} have no prompt in common")
    return spec.model_copy(update={"prompts": {**spec.prompts, **prompts}})


def run(recipe: DataRecipe, folder: Path) -> dict[str, Any]:
    """Writes everything into `folder` and returns the report. Raises UserError, also where no row is left."""
    from data.build import build
    from data.cleaning.prepare import Context
    from data.hashes import read_benchmarks
    from data.report import check_prompts, check_rows, make_report
    from data.rows import features
    from data.sources import find_templates, open_sources

    sources = open_sources(recipe)
    templates = find_templates(recipe.sources)
    spec = build_spec(recipe, templates)
    benchmark = read_benchmarks(recipe.benchmarks, recipe.pixels, recipe.hash_distance)
    records = build(Context(recipe, spec, features().arrow_schema, benchmark, templates), sources, folder)
    report = make_report(recipe, sources, records, templates, spec)
    check_rows(report)
    check_prompts(report)
    save_spec(spec, folder)
    write_json(folder / "data_report.json", report)
    return report


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="the recipe's data.yaml")
    parser.add_argument("--output_dir", type=Path, help="where to write (default: the recipe's)")
    parser.add_argument("--overwrite", action="store_true", help="start over")
    arguments = parser.parse_args()
    overrides = {"output_dir": arguments.output_dir} if arguments.output_dir else {}
    recipe = load_config(arguments.config, DataRecipe, overrides)
    fingerprint = recipe.model_dump(mode="json", exclude={"output_dir", "processes"})
    try:
        with stage_output(
            recipe.output_dir,
            lambda: {"recipe": fingerprint, "inputs": input_states(recipe)},
            overwrite=arguments.overwrite,
            rebuild=True,
            atomic=True,
        ) as folder:
            if folder is None:
                return
            report = run(recipe, folder)
    except OSError as error:  # a full disk, most often
        raise UserError(f"{recipe.output_dir}: nothing was kept: {one_line(error)}") from None
    from data.printed import print_report

    print_report(report)


if __name__ == "__main__":
    main()
