"""What the model is asked and what it answers: prompts, schema, parser, aggregate, spec. Imports no torch."""

from verdict.aggregate import aggregate
from verdict.parser import ParseFailure, Repaired, parse, repair
from verdict.schema import GLOBAL_TAG, KEYS, TASKS, Task, Verdict, cited, render
from verdict.spec import Spec, SpecError, load_spec, save_spec

__all__ = [
    "GLOBAL_TAG",
    "KEYS",
    "TASKS",
    "ParseFailure",
    "Repaired",
    "Spec",
    "SpecError",
    "Task",
    "Verdict",
    "aggregate",
    "cited",
    "load_spec",
    "parse",
    "render",
    "repair",
    "save_spec",
]
