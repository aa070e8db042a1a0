"""Imports point one way: a folder imports only from folders above it in this list. And collecting the tests is quick."""

import ast

from tests.conftest import ROOT

ORDER = ["spatial_edit_reward", "rewards_fn", "pipeline", "data", "export", "sft", "grpo", "evaluation", "tools"]


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)


def test_imports_point_one_way():
    for index, folder in enumerate(ORDER):
        for file in (ROOT / folder).rglob("*.py"):
            upward = set(imported(file)) & set(ORDER[index + 1 :])
            assert not upward, f"{file.relative_to(ROOT)} imports {upward}"


def test_sft_and_grpo_do_not_know_each_other():
    for one, other in (("sft", "grpo"), ("grpo", "sft")):
        assert all(other not in set(imported(file)) for file in (ROOT / one).rglob("*.py"))


HEAVY = {"accelerate", "datasets", "deepspeed", "peft", "torch", "transformers", "trl"}


def first_heavy_import(module, seen):
    """The chain of modules by which importing `module` imports something heavy, or None. Imports in functions do not count."""
    if module.split(".")[0] in HEAVY:
        return [module]
    parts = module.split(".")
    for name in (".".join(parts[: i + 1]) for i in range(len(parts))):  # importing a.b.c runs a and a.b first
        path = ROOT.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name in seen or not file.is_file():
            continue
        seen.add(name)
        for node in ast.parse(file.read_text()).body:
            imports = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                imports = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for imported_name in imports:
                if chain := first_heavy_import(imported_name, seen):
                    return [name, *chain]
    return None


def test_collecting_the_tests_imports_nothing_heavy():
    seen = set()
    for file in [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "tests").rglob("conftest.py")]:
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        assert first_heavy_import(module, seen) is None


def test_a_heavy_import_is_seen_through_the_modules_between():
    assert first_heavy_import("export.verify", set())[-1] in HEAVY
    assert first_heavy_import("export.__main__", set()) is None
