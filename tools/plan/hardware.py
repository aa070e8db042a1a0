"""The cards and the engine that a recipe is planned for, and `plan.yaml` with what is assumed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from spatial_edit_reward.errors import UserError

GIB = 2**30


@dataclass(frozen=True)
class Card:
    """One accelerator: memory in bytes as its driver says, dense bf16 FLOP/s and bytes/s of memory as its maker says."""

    name: str
    memory: int
    flops: float
    bandwidth: float


def _card(name: str, mebibytes: int, teraflops: float, terabytes: float) -> Card:
    return Card(name, mebibytes * 2**20, teraflops * 1e12, terabytes * 1e12)


CARDS = {
    card.name: card
    for card in (
        _card("l4-24gb", 23034, 121, 0.30),
        _card("rtx4090-24gb", 24564, 165, 1.01),
        _card("a6000-48gb", 49140, 155, 0.77),
        _card("l40s-48gb", 46068, 362, 0.86),
        _card("a100-40gb", 40960, 312, 1.56),
        _card("a100-80gb", 81920, 312, 2.04),
        _card("h100-80gb", 81559, 989, 3.35),
        _card("h200-141gb", 143771, 989, 4.80),
        _card("b200-180gb", 183359, 2250, 7.70),
    )
}


def find_card(name: str) -> Card:
    """The card `name`; "cpu" is this machine's memory. Raises UserError listing the known ones."""
    if name == "cpu":
        return Card("cpu", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), 0.0, 0.0)
    if name not in CARDS:
        raise UserError(f"GPU: {name!r} is not one of {', '.join(CARDS)}, cpu")
    return CARDS[name]


class StagePlan(BaseModel):
    """Where one stage differs from the rest."""

    model_config = ConfigDict(extra="forbid")
    gpus: Annotated[int, Field(gt=0)] | None = None
    engine: str | None = None


class PlanRecipe(BaseModel):
    """`plan.yaml`: the hardware a recipe is for, and what is assumed while the data is not there yet."""

    model_config = ConfigDict(extra="forbid")
    gpu: str
    gpus: Annotated[int, Field(gt=0)]
    engine: str
    stages: dict[str, StagePlan] = {}
    rows: dict[Literal["train", "rl", "heldout"], Annotated[int, Field(gt=0)]]
    answer_tokens: Annotated[int, Field(gt=0, description="mean of a verdict, where there are no rows to measure")]
    utilization: Annotated[float, Field(gt=0, le=1, description="share of the card's stated speed that is reached")] = (
        0.4
    )


@dataclass(frozen=True)
class Engine:
    """What an engine divides among the processes, and the buffers it keeps: zero is 0 without DeepSpeed."""

    name: str
    zero: int = 0
    fsdp: bool = False
    distributed: bool = False
    machines: int = 1
    processes: int = 1
    bucket: int | None = 0  # elements of a reduce bucket; None: the square of the hidden size (DeepSpeed's auto)
    two_buckets: bool = False

    @property
    def divides_weights(self) -> bool:
        return self.fsdp or self.zero == 3

    @property
    def divides_training_state(self) -> bool:
        return self.divides_weights or self.zero in (1, 2)


# DeepSpeed's default where its configuration says nothing.
REDUCE_BUCKET = 500_000_000


def load_engine(name: str, folder: Path = Path("recipes/accelerate")) -> Engine:
    """The engine of the accelerate configuration `name`.yaml. Raises UserError where there is none."""
    file = folder / f"{name}.yaml"
    if not file.exists():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise UserError(f"ENGINE: {name!r}: {file} is not there; known: {known or 'none'}")
    written: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    zero: dict[str, Any] = {}
    deepspeed = written.get("deepspeed_config") or {}
    if deepspeed:
        config_file = deepspeed.get("deepspeed_config_file")
        config = json.loads(Path(config_file).read_bytes()) if config_file else {}
        zero = config.get("zero_optimization") or {"stage": int(deepspeed.get("zero_stage", 2))}
    bucket = zero.get("reduce_bucket_size", REDUCE_BUCKET) if zero else 0
    return Engine(
        name,
        zero=int(zero.get("stage", 0)),
        fsdp=written["distributed_type"] == "FSDP",
        distributed=written["distributed_type"] != "NO",
        machines=int(written.get("num_machines", 1)),
        processes=int(written.get("num_processes", 1)),
        bucket=None if bucket == "auto" else int(bucket),
        two_buckets=bool(zero.get("overlap_comm")),
    )
