"""The data stage: turns the recipe's sources and synthetic groups into the canonical rows of every split, and the spec.

    python -m data --config recipes/tiny/data.yaml

Writes `train`, `validation`, `rl` and `heldout` Parquet files, `verdict.json` and `data_report.json` into the recipe's
`output_dir`, and prints what it fixed and dropped and why. Does nothing for the recipe and inputs that are there already.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.inputs import input_states
from data.recipe import DataRecipe
from pipeline.folders import stage_output
from pipeline.recipe import load_config
from spatial_edit_reward import TASKS, Spec, save_spec
from spatial_edit_reward.errors import UserError, one_line, one_line_errors
from spatial_edit_reward.files import write_json

if TYPE_CHECKING:
    from data.sources import Templates


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
        raise UserError(
            f"prompt_from: the rows of {recipe.prompt_from!r} have no prompt in common: `make check-source` has more"
        )
    return spec.model_copy(update={"prompts": {**spec.prompts, **prompts}})


def run(recipe: DataRecipe, folder: Path) -> dict[str, Any]:
    """Writes everything into `folder` and returns the report. Raises UserError, also where no row is left."""
    from data.build import build
    from data.cleaning.prepare import Context, Preparer
    from data.first_rows import check_first_rows
    from data.hashes import read_benchmarks
    from data.outcome import check_prompts
    from data.report import make_report
    from data.rows import features
    from data.sources import find_templates, open_sources

    sources = open_sources(recipe)
    templates = find_templates(recipe.sources)
    context = Context(recipe, recipe.spec(), features().arrow_schema, None, templates)
    check_first_rows(recipe.sources, Preparer(context), recipe.prompt_from)
    spec = build_spec(recipe, templates)
    benchmark = read_benchmarks(recipe.benchmarks, recipe.pixels, recipe.hash_distance)
    records, boxes = build(replace(context, spec=spec, benchmark=benchmark), sources, folder)
    report = make_report(recipe, sources, records, templates, spec, boxes)
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
    parser.add_argument(
        "--check_source",
        metavar="NAME",
        help="only try what is assumed of this source on its first rows (all: of each)",
    )
    arguments = parser.parse_args()
    overrides = {"output_dir": arguments.output_dir} if arguments.output_dir else {}
    recipe = load_config(arguments.config, DataRecipe, overrides)
    if arguments.check_source:
        from data.check_source import check_source

        check_source(recipe, arguments.check_source)
        return
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
