"""The options of `python -m evaluation`: a model for each verb, whose fields make the command line. Imports nothing slow."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError, field_validator

from evaluation.benchmarks import BENCHMARKS
from spatial_edit_reward.errors import UserError, first_error
from spatial_edit_reward.inference.backends import BackendName

Aggregation = Literal["weighted", "min", "mean"]
NAMES = ("heldout", *BENCHMARKS)
EVAL_YAML = "the recipe's eval.yaml"
START_OVER = "start over"
PARTIAL = "show figures below full coverage, as partial ones"
AGGREGATION = "of the four scores of a candidate to its overall score"


class Options(BaseModel):
    """What every verb's options have in common."""

    model_config = ConfigDict(extra="forbid")


class HeldoutConfig(Options):
    """write the held-out verdicts of every model of a recipe"""

    config: Path = Field(description=EVAL_YAML)
    overwrite: bool = Field(False, description=START_OVER)


class ReportConfig(Options):
    """the report over the held-out verdicts: table, heldout.json, page"""

    config: Path = Field(description=EVAL_YAML)


class BenchmarkConfig(Options):
    """ask a model about a public benchmark or the held-out rows, and score its verdicts"""

    bench: str = Field(description="which benchmark", json_schema_extra={"enum": [*NAMES, "all"]})
    config: Path = Field(description=EVAL_YAML)
    model: str = Field(description="folder of a checkpoint, Hub id, or name at an endpoint")
    backend: BackendName = Field("transformers", description="what generates the verdicts")
    spec: Path | None = Field(None, description="folder of the verdict.json to use, for a model without one")
    data: Path | None = Field(
        None, description="local copy: a folder, or one with a folder per benchmark; else the Hub"
    )
    batch_size: int | None = Field(None, gt=0, description="requests at once (default: the recipe's)")
    samples: int = Field(1, gt=0, description="verdicts per request, their scores averaged")
    temperature: float = Field(0.0, ge=0, description="of sampling; 0 is greedy")
    aggregation: Aggregation = Field("weighted", description=AGGREGATION)
    expected_score: bool = Field(
        False, description="also report expected scores (probability-weighted over score tokens)"
    )
    prices: tuple[float, float] | None = Field(
        None, description="an endpoint's, USD per 1M prompt and completion tokens; prints the total cost"
    )
    extra_body: Json[dict[str, Any]] = Field({}, description="further fields of an endpoint's request")
    partial: bool = Field(False, description=PARTIAL)
    overwrite: bool = Field(False, description=START_OVER)


class ScoreConfig(Options):
    """the figures of a result file, ours or the official evaluation's, without a model"""

    bench: str = Field(description="which benchmark", json_schema_extra={"enum": [*NAMES]})
    file: Path = Field(description="verdicts.jsonl, or the official evaluation's result JSON")
    benchmark_rows: Path | None = Field(
        None, description="the benchmark's rows as JSON lines, beside an official result"
    )
    json_output: bool = Field(False, alias="json", description="one JSON object: `published` and `honest`")
    expected_score: bool = Field(False, description="use the expected scores in the file")
    bootstrap_samples: int = Field(2000, gt=0, description="resamples of every 95 % interval")
    aggregation: Aggregation = Field("weighted", description=AGGREGATION)
    partial: bool = Field(False, description=PARTIAL)


class TryConfig(Options):
    """one model's verdicts on one edit, as a page"""

    model: str = Field(description="folder of a checkpoint with its verdict.json")
    source: Path = Field(description="the image before the edit")
    edited: Path = Field(description="the image after it")
    instruction: str = Field(description="the editing instruction")
    page: Path = Field(description="the HTML file to write")

    @field_validator("instruction")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value.strip():
            raise UserError("give the editing instruction: INSTRUCTION='...'")
        return value

    @field_validator("source", "edited")
    @classmethod
    def _is_file(cls, value: Path, info: Any) -> Path:
        name = info.field_name.upper()
        if value == Path():
            raise UserError(f"give the image {'before' if name == 'SOURCE' else 'after'} the edit: {name}=FILE")
        if not value.is_file():
            raise UserError(f"{name}: {value}: no such image")
        return value


class DiagnoseConfig(Options):
    """the attention on both images while a model writes verdicts: table and heat maps"""

    config: Path = Field(description=EVAL_YAML)
    model: str = Field(description="a checkpoint's folder or Hub id")
    spec: Path | None = Field(None, description="folder of the verdict.json, for a model without one")
    count: int = Field(8, ge=1, description="held-out rows to measure")


VERBS: dict[str, type[Options]] = {
    "heldout": HeldoutConfig,
    "report": ReportConfig,
    "bench": BenchmarkConfig,
    "score": ScoreConfig,
    "try": TryConfig,
    "diagnose": DiagnoseConfig,
}
POSITIONAL = ("bench", "file")


def add_options(parser: argparse.ArgumentParser, options: type[BaseModel]) -> None:
    """An argument for each field of `options`, described by it; values stay text, which the model converts and checks."""
    for name, field in options.model_fields.items():
        name = field.alias or name
        arguments: dict[str, Any] = {"help": (field.description or "").replace("%", "%%"), "default": argparse.SUPPRESS}
        if field.annotation is bool:
            arguments["action"] = "store_true"
        elif get_origin(field.annotation) is Literal:
            arguments["choices"] = get_args(field.annotation)
        elif isinstance(field.json_schema_extra, dict):
            arguments["choices"] = field.json_schema_extra["enum"]
        elif name == "prices":
            arguments |= {"nargs": 2, "metavar": ("PROMPT", "COMPLETION")}
        if name in POSITIONAL:
            del arguments["default"]
            parser.add_argument(name, **arguments)
            continue
        if isinstance(field.default, (str, int, float)) and not isinstance(field.default, bool):
            arguments["help"] += f" (default: {field.default})"
        parser.add_argument(
            *dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), required=field.is_required(), **arguments
        )


def parse_options(description: str) -> Options:
    """The options of the verb on the command line. Raises UserError for a value that does not fit."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, options in VERBS.items():
        add_options(verbs.add_parser(verb, help=options.__doc__, description=options.__doc__), options)
    values = vars(parser.parse_args())
    try:
        return VERBS[values.pop("verb")].model_validate(values)
    except ValidationError as error:
        raise UserError("--{}: {}".format(*first_error(error))) from None
