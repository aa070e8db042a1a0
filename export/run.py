"""What the files of a run say about it, for its model card and for publishing it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet

from pipeline.fingerprint import FILE_NAME, hash_model
from pipeline.folders import require, require_finished
from spatial_edit_reward.errors import UserError

# Where a source's rows come from -> their licence, as the Hub abbreviates it.
LICENCES = {"synthetic": "apache-2.0"}


class MergedFrom(NamedTuple):
    """A base (folder or Hub name) and what was put on it: adapters in the order of training, or all weights in `checkpoint`."""

    base: str
    adapters: list[Path]
    checkpoint: Path | None


@dataclass(frozen=True)
class Run:
    """A finished run of both stages in `folder`."""

    folder: Path

    def need_finished(self, *stages: str) -> None:
        """Raises UserError naming the first of `stages` that did not reach its end."""
        for stage in stages:
            require_finished(self.folder / stage, stage)

    def recipe(self, stage: str) -> dict[str, Any]:
        """The resolved recipe that `stage` ran with. Raises UserError where it did not finish."""
        self.need_finished(stage)
        recipe: dict[str, Any] = json.loads((self.folder / stage / FILE_NAME).read_text())["made_from"]["recipe"]
        return recipe

    @property
    def base(self) -> str:
        """The weights that stage 1 started from: a folder or a Hub name."""
        return str(self.recipe("sft")["model_name_or_path"])

    @property
    def base_on_hub(self) -> str | None:
        return None if Path(self.base).exists() else self.base

    @property
    def adapters(self) -> list[Path]:
        """Both stages' adapters in the order of training. Raises UserError where a stage trained all weights instead."""
        for stage in ("sft", "grpo"):
            if (self.folder / stage / "weights").is_dir():
                raise UserError(f"{self.folder / stage}: this stage trained all weights, there is no adapter of it")
        return [require(self.folder / stage / "adapter", stage) for stage in ("sft", "grpo")]

    def merged_from(self) -> MergedFrom:
        """What `merge` was made from: the weights of a stage that trained all of them, or adapters on what was before."""
        stages = {stage: self.folder / stage / "weights" for stage in ("sft", "grpo")}
        if stages["grpo"].is_dir():
            return MergedFrom(self.base, [], stages["grpo"])
        if stages["sft"].is_dir():
            merged = str(require(self.folder / "sft" / "merged", "sft"))
            return MergedFrom(merged, [require(self.folder / "grpo" / "adapter", "grpo")], None)
        return MergedFrom(self.base, self.adapters, None)

    def rows(self) -> dict[str, dict[str, int]]:
        """Counts of every split's rows, as the data stage reported them."""
        report = json.loads(require(self.folder / "data" / "data_report.json", "data").read_text())
        counts: dict[str, dict[str, int]] = report["splits"]
        return counts

    def sources(self) -> dict[str, str]:
        """Every source of the rows that were trained on -> its licence, or "not recorded"."""
        found: set[str] = set()
        for split in ("train", "rl"):
            table = pyarrow.parquet.read_table(
                require(self.folder / "data" / f"{split}.parquet", "data"), columns=["source"]
            )
            found |= set(table.column("source").unique().to_pylist())
        licences = {source: LICENCES.get(source, "not recorded") for source in sorted(found)}
        if self.recipe("data").get("photographs"):
            licences["the photographs drawn on"] = "not recorded"
        return licences

    def heldout(self) -> dict[str, Any]:
        """The held-out report. Raises UserError where none was made, or one of other weights than those in `merge`."""
        made = json.loads(require(self.folder / "eval" / FILE_NAME, "eval").read_text())["made_from"]
        if made["models"]["merged"][0] != hash_model(str(self.folder / "merge")):
            raise UserError(
                f"{self.folder / 'eval'} is of other weights than {self.folder / 'merge'}: run 'make eval report'"
            )
        report: dict[str, Any] = json.loads(require(self.folder / "report" / "heldout.json", "report").read_text())
        return report

    def seconds(self, stage: str) -> float:
        """How long `stage` trained, of its last start."""
        history = json.loads((self.folder / stage / "trainer_state.json").read_text())["log_history"]
        return float(next(entry["train_runtime"] for entry in reversed(history) if "train_runtime" in entry))
