"""What a training stage takes of the machine beside its GPUs: host memory of a node, and disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from data.stored_rows import GROUP_BYTES
from tools.plan.hardware import GIB
from tools.plan.memory import weight_bytes
from tools.plan.stage import SPLIT, step_count

if TYPE_CHECKING:
    from tools.plan.report import Setting

# Of one process: Python, torch and what CUDA keeps on the host; of one that loads rows. Assumptions.
PROCESS, WORKER = 3 * GIB, GIB // 2
# Rows are read from disk: what `python -m tools.bench.rows_memory` measured, and 17 kB of the file's contents for a row group.
ROWS, ROW_GROUP = 100_000_000, 17_000
IMAGE_BYTES = 380_000  # as PNG of 512 x 512, where there are no rows to measure
PER_NODE = 8  # GPUs at most, where the launcher is told the number of machines on its command line
GB = 1e9


def row_bytes(setting: Setting) -> int:
    """The size of the stage's rows on disk."""
    file = Path(setting.stage.options["data_dir"]) / f"{SPLIT[setting.stage.kind]}.parquet"
    return file.stat().st_size if file.exists() else round(setting.rows.count * setting.rows.images * IMAGE_BYTES)


def host_bytes(setting: Setting) -> dict[str, int]:
    """Part -> bytes of one node's host memory. Weights are whole in each process while it loads them, unless divided."""
    processes = min(PER_NODE, setting.gpus // setting.engine.machines)
    workers = setting.stage.options["dataloader_num_workers"]
    loaded = 1 if setting.engine.divides_weights else processes
    rows = ROWS + ROW_GROUP * -(-row_bytes(setting) // GROUP_BYTES)
    return {
        "weights while they load": loaded * stored_bytes(setting),
        "Python and CUDA": processes * PROCESS,
        "rows": processes * (rows + workers * WORKER),
    }


def stored_bytes(setting: Setting) -> int:
    """Bytes of the base's weights as they are stored, tied ones once."""
    base = (parameter for name, parameter in setting.model.named_parameters() if "lora_" not in name)
    return sum(parameter.numel() * parameter.element_size() for parameter in base)


def disk_bytes(setting: Setting) -> dict[str, int]:
    """Part -> bytes on disk that the stage reads or writes. A checkpoint holds what is trained with Adam's moments in fp32."""
    options, trained = setting.stage.options, weight_bytes(setting.model, setting.stage.options)[1]
    every = options["save_steps"] if options["save_strategy"] == "steps" and options["save_steps"] >= 1 else 1
    made = max(1, step_count(setting.stage, setting.rows, setting.gpus) // int(every))
    kept = min(made, options["save_total_limit"] or made) + 1  # one more while it is written
    count = sum(parameter.numel() for parameter in setting.model.parameters() if parameter.requires_grad)
    parts = {
        "rows": row_bytes(setting),
        f"{kept} checkpoints": kept * (trained + 8 * count),
        "weights at the end": trained + (stored_bytes(setting) if setting.stage.kind == "sft" else 0),
    }
    if setting.stage.kind == "sft" and not Path(setting.base).is_dir():
        parts["the base, in HF_HOME"] = stored_bytes(setting)
    return parts


def describe_node(setting: Setting) -> list[str]:
    """Host memory and disk, a line each."""
    lines = []
    for title, parts in (("host memory of one node", host_bytes(setting)), ("disk", disk_bytes(setting))):
        each = ", ".join(f"{name} {size / GB:,.1f}" for name, size in parts.items())
        lines.append(f"{title}: {sum(parts.values()) / GB:,.1f} GB: {each}")
    return lines
