"""What the model is asked and what it answers: prompts, schema, parser, aggregate, spec. Imports no torch."""

from spatial_edit_reward.aggregate import aggregate
from spatial_edit_reward.errors import SpecError, UserError
from spatial_edit_reward.parser import ParseFailure, Repaired, parse, repair
from spatial_edit_reward.schema import GLOBAL_TAG, KEYS, TASKS, Task, Verdict, cited_ids, render
from spatial_edit_reward.spec import Spec, load_spec, save_spec

__all__ = [
    "GLOBAL_TAG",
    "KEYS",
    "TASKS",
    "ParseFailure",
    "Repaired",
    "Spec",
    "SpecError",
    "Task",
    "UserError",
    "Verdict",
    "aggregate",
    "cited_ids",
    "load_spec",
    "parse",
    "render",
    "repair",
    "save_spec",
]
