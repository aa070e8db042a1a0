"""Whether a recipe's keys and values fit the dataclasses they are for: TrlParser turns YAML into defaults without a check."""

from __future__ import annotations

import ast
import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from spatial_edit_reward.errors import UserError

# Fields whose misspelt value TRL would only notice in the middle of a run (read off trl 1.16's GRPOTrainer); the other ones
# say their choices in their type or metadata.
ALLOWED: dict[str, tuple[Any, ...]] = {
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "scale_rewards": (True, False, "group", "batch", "none"),
    "importance_sampling_level": ("token", "sequence"),
    "vllm_mode": ("colocate", "server"),
    "vllm_model_impl": ("vllm", "transformers"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
}
# Lists whose entries argparse's types cannot describe; `rewards_fn.load_rewards` checks them.
CHECKED_BY_STAGE = {"reward_funcs"}


def fields_of(types: Iterable[type]) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """Name -> (field, type) of every field of the dataclasses `types`."""
    declared: dict[str, tuple[dataclasses.Field[Any], Any]] = {}
    for kind in types:
        hints = get_type_hints(kind)
        declared |= {field.name: (field, hints[field.name]) for field in dataclasses.fields(kind)}
    return declared


def field_names(module: str, name: str) -> set[str]:
    """The fields of the dataclass that `from module import name` gives, with those it inherits, without importing anything.

    Read off the source of the installed packages: to import TRL takes seconds, and a misspelt key need not wait for it.

    Example:
        >>> "learning_rate" in field_names("trl", "SFTConfig")
        True
    """
    top, *inner = module.split(".")
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        return set()
    package = Path(spec.submodule_search_locations[0], *inner)
    file = package / "__init__.py" if package.is_dir() else package.with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            own = {
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign)
                and isinstance(item.target, ast.Name)
                and not ast.unparse(item.annotation).startswith(("ClassVar", "typing.ClassVar"))
            }
            return own.union(*(field_names(module, base.id) for base in node.bases if isinstance(base, ast.Name)))
    for statement in ast.walk(tree):  # lazy packages import for type checkers alone, deeper in the file
        if not isinstance(statement, ast.ImportFrom):
            continue
        imported = {alias.asname or alias.name: alias.name for alias in statement.names}
        if name in imported:
            # one dot is the package that the file is in
            parents = (module.split(".") if package.is_dir() else module.split(".")[:-1])[: 1 - statement.level or None]
            target = ".".join([*(parents if statement.level else []), *filter(None, [statement.module])])
            return field_names(target, imported[name])
    return set()


def unknown_key(file: Path, key: str, known: Iterable[str]) -> UserError:
    """The error for a key that no field has, with the nearest known names, or with all of them where they are few."""
    names = list(known)
    near = [name for name in names if key in name.split("_")][:3] or difflib.get_close_matches(key, names, n=3)
    known_names = f"; known: {', '.join(names)}" if len(names) <= 30 else ""
    hint = f"; did you mean {' or '.join(near)}?" if near else known_names
    return UserError(f"{file}: unknown key {key!r}{hint}")


def check_values(file: Path, recipe: Mapping[str, Any], types: Iterable[type]) -> dict[str, Any]:
    """`recipe` with every value as the type of its field in the dataclasses `types`: the text "1e-5" becomes a number.

    Raises UserError naming file, key and value for a key that is no field, or a value that its field cannot take.
    """
    fields = fields_of(types)
    checked: dict[str, Any] = {}
    for key, value in recipe.items():
        if key not in fields:
            raise unknown_key(file, key, fields)
        allowed = allowed_values(*fields[key])
        if allowed and value is not None:
            check_allowed(f"{file}: {key}", value, allowed)
        if key in CHECKED_BY_STAGE or (key in ALLOWED and value is not None):
            checked[key] = value
            continue
        try:
            adapter = TypeAdapter(fields[key][1], config=ConfigDict(arbitrary_types_allowed=True))
            checked[key] = adapter.validate_python(value)
        except ValidationError as error:
            reasons = "; ".join(sorted({part["msg"] for part in error.errors()})[:2])
            raise UserError(f"{file}: {key}: {value!r} does not fit: {reasons}") from None
    return checked


def allowed_values(field: dataclasses.Field[Any], hint: Any) -> list[Any]:
    """The values that a field can take, where they can be listed: its choices, the enum in its type, ALLOWED; else none."""
    if field.metadata.get("choices"):
        return list(field.metadata["choices"])
    if field.name == "report_to":
        from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

        return ["all", "none", *INTEGRATION_TO_CALLBACK]
    kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and issubclass(kind, Enum)]
    return [member.value for kind in kinds for member in kind] or list(ALLOWED.get(field.name, ()))


def check_allowed(where: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raises UserError where `value`, or an entry of the list `value`, is not among `allowed`."""
    for entry in value if isinstance(value, list) else [value]:
        if entry not in allowed:
            near = difflib.get_close_matches(str(entry), [str(one) for one in allowed], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"{where}: {entry!r} is not one of {', '.join(map(str, allowed))}{hint}")
