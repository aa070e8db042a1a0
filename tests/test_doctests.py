"""The examples in the docstrings of the library run, and every public name has one."""

import doctest
import importlib
import pkgutil

import pytest

import rewards_fn
import spatial_edit_reward

MODULES = [
    f"{package.__name__}.{module.name}"
    for package in (spatial_edit_reward, rewards_fn)
    for module in pkgutil.iter_modules(package.__path__)
    if not module.ispkg and module.name != "__main__"
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize(
    "name",
    [
        *("boxes.valid_box", "checks.failed_checks", "parser.parse", "parser.repair", "schema.render"),
        *("spec.Spec", "aggregate.aggregate", "images.fitted_size"),
    ],
)
def test_the_contract_is_shown_by_example(name):
    module, attribute = name.split(".")
    documented = getattr(importlib.import_module(f"spatial_edit_reward.{module}"), attribute)
    assert doctest.DocTestFinder().find(documented)[0].examples


@pytest.mark.parametrize("name", [*rewards_fn.KNOWN, "load_rewards", "weighted_mean"])
def test_every_reward_is_shown_by_example(name):
    module, attribute = rewards_fn.KNOWN.get(name, f"rewards_fn.load:{name}").split(":")
    documented = getattr(importlib.import_module(module), attribute)
    assert doctest.DocTestFinder().find(documented)[0].examples
