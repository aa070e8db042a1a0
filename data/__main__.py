"""The data stage: turns the recipe's sources and drawn groups into the canonical rows of every split, and the spec.

    python -m data --config recipes/tiny/data.yaml

Writes `train`, `validation`, `rl` and `heldout` Parquet files, `verdict.json` and `data_report.json` into the recipe's
`output_dir`, and says what it fixed and dropped and why. Does nothing for the recipe and inputs that are there already.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.recipe import DataRecipe, Source
from pipeline.fingerprint import hash_files
from pipeline.folders import stage_output
from pipeline.recipe import load_config
from spatial_edit_reward import TASKS, Spec, save_spec
from spatial_edit_reward.errors import UserError, one_line_errors
from spatial_edit_reward.files import write_json

if TYPE_CHECKING:
    from data.sources import Templates


def inputs_of(recipe: DataRecipe) -> dict[str, Any]:
    """What the recipe reads, as far as it can be hashed in seconds: annotation files whole, image archives by size and time.

    Raises UserError for photographs or a tokenizer that is not there.
    """
    found: dict[str, Any] = {}
    for source in recipe.sources:
        file = Path(source.path)
        found[source.path] = hash_files(file) if file.is_file() else states_below(file)
        if source.images:
            found[str(source.images)] = [
                state(one) for one in sorted(source.images.parent.glob(f"{source.images.name}*"))
            ]
    if recipe.tokenizer and not (recipe.tokenizer / "tokenizer.json").is_file():
        raise UserError(f"tokenizer: {recipe.tokenizer}: no tokenizer.json in it")
    for folder in recipe.benchmarks:
        found[str(folder)] = states_below(folder)
    if recipe.photographs:
        from data.synthetic.generate import background_files

        try:
            background_files(recipe.photographs)
        except FileNotFoundError as error:
            raise UserError(str(error)) from None
        found["photographs"] = hash_files(recipe.photographs)
    return found


def states_below(folder: Path) -> list[list[Any]]:
    """The state of every file below `folder`, but for the cache that `hf download` keeps there."""
    return [state(one) for one in sorted(folder.rglob("*")) if ".cache" not in one.parts]


def state(path: Path) -> list[Any]:
    """A file's name, size in bytes and time of change; of a folder the name alone."""
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns] if path.is_file() else [path.name]


def spec_of(recipe: DataRecipe, templates: Templates) -> Spec:
    """The spec, in the words of the recipe or of `prompt_from`. Raises UserError where that source has no prompt in common."""
    spec = Spec(pixels=recipe.pixels, max_new_tokens=recipe.max_new_tokens)
    if recipe.prompt_from is None:
        return spec.model_copy(update={"prompts": {**spec.prompts, **recipe.prompts}})
    own = {task: templates[recipe.prompt_from, task] for task in TASKS if (recipe.prompt_from, task) in templates}
    if not own:
        raise UserError(f"prompt_from: the rows of {recipe.prompt_from!r} have no prompt in common")
    given = next(source.score_range for source in recipe.sources if source.name == recipe.prompt_from)
    prompts = {**spec.prompts, **{task: template.spec_prompt(given) for task, template in own.items()}}
    return spec.model_copy(update={"prompts": prompts})


def make(recipe: DataRecipe, folder: Path) -> dict[str, Any]:
    """Writes everything into `folder` and returns the report."""
    from data.build import build
    from data.cleaning.fixer import policies
    from data.cleaning.prepare import Context
    from data.hashes import read_benchmarks
    from data.report import check_prompts, make_report
    from data.rows import FEATURES
    from data.sources import find_templates
    from data.synthetic.layout import write_layout

    plain = Spec(pixels=recipe.pixels, max_new_tokens=recipe.max_new_tokens)
    drawn: list[Source] = write_layout(recipe, plain, folder / "drawn") if recipe.groups else []
    sources = [*recipe.sources, *drawn]
    templates = find_templates(sources)
    spec = spec_of(recipe, templates)
    context = Context(
        spec=spec,
        policy=policies(recipe.policy),
        tolerance=recipe.box_tolerance,
        store=recipe.store,
        benchmark=read_benchmarks(recipe.benchmarks, recipe.pixels, recipe.hash_distance),
        tokenizer=recipe.tokenizer,
        schema=FEATURES.arrow_schema,
        templates=templates,
    )
    built = build(recipe, sources, context, folder)
    shutil.rmtree(folder / "drawn", ignore_errors=True)
    report = make_report(recipe, sources, built, templates, spec)
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
    said = recipe.model_dump(mode="json", exclude={"output_dir", "processes"})
    with stage_output(
        recipe.output_dir,
        lambda: {"recipe": said, "inputs": inputs_of(recipe)},
        overwrite=arguments.overwrite,
        rebuild=True,
        atomic=True,
    ) as folder:
        if folder is None:
            return
        report = make(recipe, folder)
    from data.printed import print_report

    print_report(report)


if __name__ == "__main__":
    main()
