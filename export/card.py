"""The model card: every figure and setting in it is read from the files of a finished run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from pipeline.curves import curves
from pipeline.figures import format_figure
from pipeline.fingerprint import hash_model, read_record
from pipeline.folders import require, require_finished
from spatial_edit_reward import KEYS, load_spec
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.request import max_model_len

TEMPLATE = Path(__file__).with_name("card.md.j2")
# Settings of a stage that name folders of the training machine, or say nothing about the result.
LEFT_OUT = {"data_dir", "model_name_or_path", "output_dir", "use_cpu", "extends"}
# Where a source's rows come from -> their license, as the Hub abbreviates it.
LICENSES = {"synthetic": "apache-2.0"}


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of both stages in `folder`."""

    folder: Path

    def made_from(self, stage: str) -> dict[str, Any]:
        """The fingerprint of `stage`, its resolved recipe in it. Raises UserError where the stage did not finish."""
        require_finished(self.folder / stage, stage)
        record = read_record(self.folder / stage)
        return dict(record["made_from"]) if record else {}

    def recipe(self, stage: str) -> dict[str, Any]:
        """The resolved recipe that `stage` ran with. Raises UserError where it did not finish."""
        return dict(self.made_from(stage)["recipe"])

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

    def merged_from(self) -> tuple[str, list[Path], Path | None]:
        """What `merge` was made from: a base, and adapters in the order of training or a folder of all weights instead."""
        stages = {stage: self.folder / stage / "weights" for stage in ("sft", "grpo")}
        if stages["grpo"].is_dir():
            return self.base, [], stages["grpo"]
        if stages["sft"].is_dir():
            merged = str(require(self.folder / "sft" / "merged", "sft"))
            return merged, [require(self.folder / "grpo" / "adapter", "grpo")], None
        return self.base, self.adapters, None

    def sources(self) -> dict[str, str]:
        """Every source of the rows that were trained on -> its license, or "not recorded"."""
        sources: set[str] = set()
        for split in ("train", "rl"):
            file = require(self.folder / "data" / f"{split}.parquet", "data")
            sources |= set(pyarrow.parquet.read_table(file, columns=["source"])["source"].unique().to_pylist())
        licenses = {source: LICENSES.get(source, "not recorded") for source in sorted(sources)}
        if self.recipe("data").get("backgrounds"):
            licenses["the backgrounds drawn on"] = "not recorded"
        return licenses

    def heldout(self) -> dict[str, Any]:
        """The held-out report. Raises UserError where none was made, or one of other weights than those in `merge`."""
        if self.made_from("eval")["models"]["merged"][0] != hash_model(str(self.folder / "merge")):
            raise UserError(
                f"{self.folder / 'eval'} is of other weights than {self.folder / 'merge'}: run 'make eval report'"
            )
        report: dict[str, Any] = json.loads(require(self.folder / "report" / "heldout.json", "report").read_bytes())
        return report

    def seconds(self, stage: str) -> float:
        """How long `stage` trained, of its last start."""
        history = json.loads((self.folder / stage / "trainer_state.json").read_bytes())["log_history"]
        return float(next(entry["train_runtime"] for entry in reversed(history) if "train_runtime" in entry))


def metadata(run: FinishedRun, repo: str) -> ModelCardData:
    """The card's header for the Hub, with the merged model's held-out means."""
    heldout = run.heldout()
    results = [
        EvalResult(
            task_type="image-text-to-text",
            dataset_type="held-out",
            dataset_name=f"held out: {heldout['rows']['sc']} sc and {heldout['rows']['pq']} pq rows",
            metric_type=metric,
            metric_value=round(figures["mean"], 4),
        )
        for metric, figures in heldout["models"]["merged"].items()
        if figures["mean"] is not None
    ]
    free = set(run.sources().values()) == {"apache-2.0"}
    return ModelCardData(
        language="en",
        license="apache-2.0" if free else "other",
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        base_model=run.base_on_hub,
        tags=["reward-model", "image-editing", "spatial-reasoning", "trl", "sft", "grpo"],
        model_name=repo.split("/")[-1],
        eval_results=results,
    )


def make_card(run: FinishedRun, repo: str) -> str:
    """The card of the run's merged model as it will be published in `repo` ("org/name").

    Raises UserError where a stage, the report or the export's verification is missing.
    """
    merged = require(run.folder / "merge", "merge")
    export = json.loads(require(merged / "export_report.json", "merge").read_bytes())
    if not export["passed"]:
        raise UserError(f"{merged}: did not pass its verification: {export['failed']}")
    data = json.loads(require(run.folder / "data" / "data_report.json", "data").read_bytes())
    spec, heldout = load_spec(merged), run.heldout()
    settings = {
        stage: {key: value for key, value in run.recipe(stage).items() if key not in LEFT_OUT}
        for stage in ("sft", "grpo")
    }
    card = ModelCard.from_template(
        metadata(run, repo),
        template_path=str(TEMPLATE),
        repo=repo,
        name=repo.split("/")[-1],
        base=run.base_on_hub or Path(run.base).as_posix(),
        finetuned=bool(run.merged_from()[2]),
        rows=data["splits"],
        sources=run.sources(),
        settings={stage: yaml.safe_dump(values, sort_keys=True).strip() for stage, values in settings.items()},
        minutes={stage: run.seconds(stage) / 60 for stage in ("sft", "grpo")},
        heldout=heldout,
        columns={**heldout["models"], **heldout["differences"]},
        format_figure=format_figure,
        export=export,
        spec=spec,
        keys={task: ", ".join(f"`{key}`" for key in keys) for task, keys in KEYS.items()},
        max_model_len=max_model_len(spec, images=2),
        versions={name: version(name) for name in ("torch", "transformers", "trl", "peft")},
    )
    return str(card)


def write_card(run: FinishedRun, repo: str) -> None:
    """Writes `README.md` and `curves.png` into the run's merged folder."""
    (run.folder / "merge" / "README.md").write_text(make_card(run, repo), encoding="utf-8")
    (run.folder / "merge" / "curves.png").write_bytes(curves(run.folder, "png"))
