"""The contract of a verdict: what a model is asked, how its answer is read and checked, and the one number R. No torch."""

from spatial_edit_reward.aggregate import aggregate
from spatial_edit_reward.boxes import valid_box
from spatial_edit_reward.checks import failed_checks
from spatial_edit_reward.errors import SpecError, UserError
from spatial_edit_reward.parser import ParseFailure, Repaired, parse, repair
from spatial_edit_reward.schema import (
    DEFAULT_SCORE_RANGE,
    GLOBAL_TAG,
    KEYS,
    TASKS,
    ScoreRange,
    Task,
    Verdict,
    cited_ids,
    render,
)
from spatial_edit_reward.spec import Spec, load_spec, save_spec

__all__ = [
    "DEFAULT_SCORE_RANGE",
    "GLOBAL_TAG",
    "KEYS",
    "TASKS",
    "ParseFailure",
    "Repaired",
    "ScoreRange",
    "Spec",
    "SpecError",
    "Task",
    "UserError",
    "Verdict",
    "aggregate",
    "cited_ids",
    "failed_checks",
    "load_spec",
    "parse",
    "render",
    "repair",
    "save_spec",
    "valid_box",
]
