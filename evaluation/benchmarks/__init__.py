"""The public ranking benchmarks, one module each: reading its rows, its official rule, the paper's rows, a synthetic twin.

A new benchmark is its module, its name here, and its test. Every module has
    TITLE, PAPER          its name, and model -> its official headline figure in the papers
    HEADLINE              the keys that lead to that figure in what `official_score` returns
    read                  (local copy or None) -> samples, candidates in the stored order
    official_score        (scored samples, candidates in the stored order) -> the figures of the benchmark's own rule
    read_official_results (results, benchmark rows, file) -> scored samples of the official evaluation's result file
    draw                  (samples, seed, side, folder): writes synthetic rows in the benchmark's public schema
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

BENCHMARKS = ("merbench", "editreward-bench", "tiger-editreward-bench", "mmrb2")


def load_benchmark(name: str) -> Any:
    """The module of the benchmark `name`, imported when it is needed: reading rows takes seconds to import."""
    return import_module(f"{__name__}.{name.replace('-', '_')}")
