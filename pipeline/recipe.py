"""Recipes: a stage's YAML is resolved (`extends`), checked against the fields it sets, and handed to TRL's parser."""

from __future__ import annotations

import dataclasses
import difflib
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pipeline.errors import UserError

Model = TypeVar("Model", bound=BaseModel)

# Fields whose misspelt value TRL would only notice in the middle of a run (read off trl 1.16's GRPOTrainer).
ALLOWED: dict[str, tuple[Any, ...]] = {
    "loss_type": ("nll", "dft", "grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "scale_rewards": (True, False, "group", "batch", "none"),
    "importance_sampling_level": ("token", "sequence"),
}


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in `file`, its `extends:` (a path relative to the file) merged below it: mappings deep, lists replaced."""
    try:
        found = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise UserError(f"{file}: no such recipe file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: expected a YAML mapping of option names to values")
    parent = found.pop("extends", None)
    return found if parent is None else _merged(read_yaml(file.parent / parent), found)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result


def _first(error: ValidationError) -> str:
    return "; ".join(sorted({part["msg"] for part in error.errors()})[:2])


def unknown_key(file: Path, key: str, known: Iterable[str]) -> UserError:
    """The error for a key that no field has, with the nearest known names."""
    near = difflib.get_close_matches(key, list(known), n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return UserError(f"{file}: unknown key {key!r}{hint}")


def check_values(file: Path, recipe: Mapping[str, Any], types: Iterable[type]) -> None:
    """Raises UserError for a key that is no field of the dataclasses `types`, or a value that its field cannot take.

    TrlParser turns YAML values into defaults without looking at them, so that a wrong one would fail only when used.
    """
    fields: dict[str, tuple[Any, Mapping[str, Any]]] = {}
    for kind in types:
        hints = get_type_hints(kind)
        fields |= {field.name: (hints[field.name], field.metadata) for field in dataclasses.fields(kind)}
    for key, value in recipe.items():
        if key not in fields:
            raise unknown_key(file, key, fields)
        hint, metadata = fields[key]
        allowed = ALLOWED.get(key) or metadata.get("choices")
        if allowed and value is not None and value not in allowed:
            raise UserError(f"{file}: {key}: {value!r} is not one of {', '.join(map(str, allowed))}")
        if key in CHECKED_BY_STAGE:
            continue
        try:
            TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
        except ValidationError as error:
            raise UserError(f"{file}: {key}: {value!r} does not fit: {_first(error)}") from None


# Lists whose entries argparse's types cannot describe; `rewards_fn.load_rewards` checks them.
CHECKED_BY_STAGE = {"reward_funcs"}

# Options that change what a run says, not what it makes: no part of its fingerprint.
SAID_ONLY = {"output_dir", "report_to", "run_name", "disable_tqdm", "logging_steps", "log_completions", "fresh"}


def parse_stage(types: tuple[type, ...], arguments: list[str] | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The stage's dataclasses from `--config FILE` and `--field value` overrides, through TRL's TrlParser.

    Also returns the resolved recipe: every option that file or command line set and that changes the result.

    Raises UserError for a missing or wrong recipe; exits by itself on `--help`.
    """
    from trl import TrlParser  # seconds to import: not before the recipe was looked at

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = TrlParser(dataclass_types=types)
    if "-h" in arguments or "--help" in arguments:
        parser.print_help()
        sys.exit(0)
    if "--config" not in arguments or arguments[-1] == "--config":
        raise UserError("give the stage its recipe: --config recipes/NAME/STAGE.yaml")
    place = arguments.index("--config") + 1
    file = Path(arguments[place])
    recipe = read_yaml(file)
    check_values(file, recipe, types)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as resolved:
        yaml.safe_dump(recipe, resolved)
        resolved.flush()
        arguments[place] = resolved.name
        try:
            parsed = parser.parse_args_and_config(arguments)
        except (ValueError, TypeError) as error:
            raise UserError(f"{file}: {' '.join(str(error).split())}") from None
    flags = {argument[2:].split("=")[0].replace("-", "_") for argument in arguments if argument.startswith("--")}
    names = (set(recipe) | flags) - SAID_ONLY
    values = {name: getattr(part, name) for part in parsed for name in sorted(names) if hasattr(part, name)}
    return parsed, values


def load_model(file: Path, kind: type[Model], overrides: Mapping[str, Any] | None = None) -> Model:
    """The recipe `file`, `overrides` on top, as the pydantic model `kind`: for stages that need no trainer."""
    recipe = {**read_yaml(file), **(overrides or {})}
    try:
        return kind.model_validate(recipe)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise unknown_key(file, key, kind.model_fields) from None
        said = first["msg"].removeprefix("Value error, ")
        if not isinstance(first["input"], dict):  # a whole mapping would hide what is said of it
            said += f", got {first['input']!r}"
        raise UserError(f"{file}: {key + ': ' if key else ''}{said}") from None
