"""Recipes: a stage's YAML is resolved (`extends`), checked against the fields it sets, and handed to TRL's parser."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.launch import check_launch, check_packages
from pipeline.values import allowed_values, check_allowed, check_values, field_names, fields_of, unknown_key
from spatial_edit_reward.errors import UserError, first_error, one_line

Model = TypeVar("Model", bound=BaseModel)


def default_paths(file: Path) -> dict[str, str]:
    """The paths that the stage of `recipes/NAME/STAGE.yaml` has unless they are written: in `runs/NAME`, by stage."""
    folder = file.absolute().parent
    if folder.parent.name != "recipes":
        return {}
    run = f"runs/{folder.name}"
    evaluated = {"run_dir": run, "rewards_from": f"recipes/{folder.name}/grpo.yaml"}
    return {
        "data": {"output_dir": f"{run}/data"},
        "sft": {"data_dir": f"{run}/data"},
        "mine": evaluated,
        "grpo": {"model_name_or_path": f"{run}/sft/merged", "data_dir": f"{run}/mine"},
        "eval": evaluated,
    }.get(kind_of(file), {}) | ({"output_dir": f"{run}/{file.stem}"} if kind_of(file) in ("sft", "grpo") else {})


def kind_of(file: Path) -> str:
    """The stage that a recipe's file is for: `grpo` of `grpo-paper.yaml`."""
    return file.stem.split("-")[0]


def recipe_layers(file: Path) -> list[tuple[Path, dict[str, Any]]]:
    """`file` and what it extends, nearest first, each with its own keys alone, and below all of them `default_paths`.

    Raises UserError for a file that is no mapping, and for a circle.
    """
    layers: list[tuple[Path, dict[str, Any]]] = []
    defaults = (file, default_paths(file))
    seen: set[Path] = set()
    while True:
        if file.resolve() in seen:
            raise UserError(f"{layers[-1][0]}: extends: {file}, which extends this file: a circle")
        seen.add(file.resolve())
        mapping = _mapping_in(file, layers[-1][0] if layers else None)
        parent = mapping.pop("extends", None)
        layers.append((file, mapping))
        if parent is None:
            return [*layers, defaults]
        if not isinstance(parent, str):
            raise UserError(f"{file}: extends: {parent!r} is not one path, relative to this file")
        file = Path(os.path.normpath(file.parent / parent))


def config_folder(sft: Path, base: str | None = None) -> Path | None:
    """The folder with the base's `config.json`: `base` itself, else the recipe of `sft` or one that it extends, else None."""
    folders = [*([Path(base)] if base else []), *(file.parent for file, _ in recipe_layers(sft))]
    return next((folder for folder in folders if (folder / "config.json").exists()), None)


def _mapping_in(file: Path, child: Path | None) -> dict[str, Any]:
    try:
        mapping = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{child}: extends: {file} is not there" if child else f"{file}: no such recipe file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: not readable as YAML: {one_line(error, 1000)}") from None
    if not isinstance(mapping, dict):
        raise UserError(f"{file}: expected a YAML mapping of option names to values")
    return mapping


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in `file`, its `extends:` (a path relative to the file) merged below it: mappings deep, lists replaced."""
    return _resolved(recipe_layers(file))


def _resolved(layers: Sequence[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    resolved: dict[str, Any] = {}
    for _, layer in reversed(layers):
        resolved = _merged(resolved, layer)
    return resolved


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result


def resolve_options(file: Path, types: Sequence[type]) -> dict[str, Any]:
    """The recipe `file` with what it extends, every value as the type of its field in the dataclasses `types`.

    Raises UserError naming the file that sets it, key and value, for a key that is no field or a value that does not fit.
    """
    layers = recipe_layers(file)
    for layer in layers:
        check_values(*layer, types)
    return check_values(file, _resolved(layers), types)


# Options that change what a run says, not what it makes: no part of its fingerprint.
NOT_FINGERPRINTED = {
    "output_dir",
    "report_to",
    "run_name",
    "disable_tqdm",
    "logging_steps",
    "log_completions",
    "max_logp_difference",
    "overwrite",
    "random_weights",
}


def read_options(names: Iterable[str], own: type, arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The stage's options as far as they are known without TRL: its keys are checked in a second, its values are not.

    `names`: TRL's dataclasses, by name; `own`: the stage's. Returns what recipe and command line set, the latter as text.
    Raises UserError for a missing recipe, an unknown key or option, a launcher's missing variable. Nothing for `--help`.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "-h" in arguments or "--help" in arguments:
        return {}
    file = recipe_file(arguments)
    known = {field.name for field in dataclasses.fields(own)}.union(*(field_names("trl", name) for name in names))
    layers = recipe_layers(file)
    for layer, options in layers:
        for key in options:
            if key not in known:
                raise unknown_key(layer, key, known)
    check_launch(os.environ)
    options = _resolved(layers)
    for index, argument in enumerate(arguments):
        if argument.startswith("--") and argument not in ("--", "--config"):
            name, _, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            if not {name, name.removeprefix("no_")} & known:  # not a beginning either, which argparse would take
                raise unknown_key(Path("command line"), f"--{name}", [f"--{field}" for field in known])
            following = arguments[index + 1 : index + 2]
            options[name] = value or (following[0] if following and not following[0].startswith("--") else "true")
    return options


def check_options(options: Mapping[str, Any], stage: str) -> list[str]:
    """What the command line sets for a run that only times steps (`random_weights`), by the options of `read_options`.

    A warm-up, two steps that are timed and one that is counted unless the command line says otherwise; nothing is saved.
    """
    changed = {"eval_strategy": "no", "save_strategy": "no", "report_to": "none", "data_dir": "none"}
    changed["output_dir"] = str(Path(options.get("output_dir", f"runs/{stage}")).parent / "timing")
    if stage == "grpo":
        # vLLM would read the weights from a folder, and noise earns nothing
        changed |= {"use_vllm": "false", "reward_funcs": "format", "reward_weights": "1.0"}
    if not any(argument.startswith("--max_steps") for argument in sys.argv):
        changed["max_steps"] = "4"
    return [part for name, value in changed.items() for part in (f"--{name}", value)]


def recipe_file(arguments: Sequence[str]) -> Path:
    """The recipe's path on the command line. Raises UserError where it is not given."""
    return Path(arguments[_config_index(arguments)])


def _config_index(arguments: Sequence[str]) -> int:
    """The index of the recipe's path among the command line's `arguments`."""
    if "--config" not in arguments or arguments[-1] == "--config":
        raise UserError("give the stage its recipe: --config recipes/NAME/STAGE.yaml")
    return arguments.index("--config") + 1


def parse_stage(types: tuple[type, ...], arguments: list[str] | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The stage's dataclasses from `--config FILE` and `--field value` overrides, through TRL's TrlParser.

    Also returns the resolved recipe: every option that file or command line set and that changes the result.

    Raises UserError for a missing or wrong recipe, a launcher's missing variable, a package that is not installed; exits by
    itself on `--help`.
    """
    from trl import TrlParser  # seconds to import: not before `read_options`

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = TrlParser(dataclass_types=types)
    parser.error = _refuse  # argparse's own would print every option first
    if "-h" in arguments or "--help" in arguments:
        stage = Path(sys.argv[0]).parent.name
        parser.usage = f"python -m {stage} --config recipes/NAME/{stage}.yaml [--any_option value]"
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.description = sys.modules["__main__"].__doc__
        parser.print_help()
        sys.exit(0)
    index = _config_index(arguments)
    file = Path(arguments[index])
    recipe = resolve_options(file, types)
    check_launch(os.environ)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as resolved:
        yaml.safe_dump(recipe, resolved)
        resolved.flush()
        arguments[index] = resolved.name
        try:
            parsed = parser.parse_args_and_config(arguments)
        except (UserError, ValueError, TypeError) as error:
            raise UserError(f"{file}: {one_line(error, 1000)}") from None
    flags = {argument[2:].split("=")[0].replace("-", "_") for argument in arguments if argument.startswith("--")}
    everything = {field.name: getattr(part, field.name) for part in parsed for field in dataclasses.fields(part)}
    for name, (field, hint) in fields_of(types).items():
        allowed = allowed_values(field, hint)
        if name in flags and everything[name] is not None and allowed:
            check_allowed(f"--{name}", everything[name], allowed)
    check_packages(everything)
    names = (set(recipe) | flags) - NOT_FINGERPRINTED
    return parsed, {name: everything[name] for name in sorted(names) if name in everything}


def require_model(model_args: Any, file: Path) -> None:
    """Raises UserError where neither the recipe `file` nor its folder names the weights to start from."""
    if not model_args.model_name_or_path:
        raise UserError(
            f"{file}: model_name_or_path is missing: it follows from the folder's name in recipes/NAME alone"
        )


def _refuse(message: str) -> None:
    raise UserError(message)


def load_config(file: Path, kind: type[Model], overrides: Mapping[str, Any] | None = None) -> Model:
    """The recipe `file`, `overrides` on top, as the pydantic model `kind`: for stages that need no trainer."""
    recipe = {**read_yaml(file), **(overrides or {})}
    try:
        return kind.model_validate(recipe)
    except ValidationError as error:
        key, message = first_error(error)
        file = next((layer for layer, options in recipe_layers(file) if key.split(".")[0] in options), file)
        if error.errors()[0]["type"] == "extra_forbidden":
            raise unknown_key(file, key, kind.model_fields) from None
        raise UserError(f"{file}: {key + ': ' if key else ''}{message}") from None
