"""What `make plan` computes for the stages as they were rehearsed, beside what they took."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def compare_plan(
    folder: Path, name: str, stages: Iterable[dict[str, Any]], processes: dict[str, int]
) -> dict[str, Any]:
    """Stage -> memory of one process and tokens of a row, each as [measured, planned], of the training stages of a rehearsal.

    `processes`: of each training stage. A process's memory holds its libraries, about 0.6 GiB, which no plan counts.
    """
    from tools.plan.report import load_setting, plan_stage
    from tools.plan.stage import load_stage

    recipe, compared = Path("recipes") / name, {}
    with contextlib.chdir(folder):  # the recipe's paths are relative
        for line in stages:
            stage = line["stage"]
            if stage not in processes:
                continue
            setting = load_setting(load_stage(recipe / f"{stage}.yaml", {}), recipe, "cpu", processes[stage], None)
            planned = max(sum(parts.values()) for _, parts, _ in plan_stage(setting, {}).memory)
            history = json.loads((Path("runs") / name / stage / "trainer_state.json").read_text(encoding="utf-8"))
            seen = [entry["num_tokens"] for entry in history["log_history"] if "num_tokens" in entry]
            compared[stage] = {
                "bytes": [line["peak_bytes"], planned],
                "tokens_of_a_row": [seen[-1] / line["rows_out"], setting.rows.tokens],
            }
    return compared


def compared_lines(compared: dict[str, Any]) -> list[str]:
    """A line for each stage: measured, planned, and their ratio."""
    lines = []
    for stage, figures in compared.items():
        (memory, planned), (tokens, expected) = figures["bytes"], figures["tokens_of_a_row"]
        lines.append(
            f"{stage}: {memory / 2**30:.2f} GiB in one process, planned {planned / 2**30:.2f} (ratio {memory / planned:.2f}); "
            f"{tokens:,.0f} tokens a row, planned {expected:,.0f} (ratio {tokens / expected:.2f})"
        )
    return lines
