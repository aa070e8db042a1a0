"""Imports point one way: a folder imports only from folders above it in this list."""

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
