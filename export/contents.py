"""What a published repository holds: the merged model, or the adapters of both stages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from rich.console import Console
from rich.table import Table

from export.checkpoint import files_beside, weight_files
from export.run import Run
from spatial_edit_reward.spec import FILE_NAME as SPEC

ABOUT = ("README.md", "curves.png", "export_report.json")
TEMPLATE = Path(__file__).with_name("adapters.md.j2")


def merged_files(folder: Path) -> list[str]:
    """Names of the files of a merged checkpoint that are published, weights first."""
    return [*weight_files(folder), *files_beside(folder), *(name for name in ABOUT if (folder / name).exists())]


def gather_adapters(run: Run, folder: Path, repo: str) -> list[str]:
    """Copies both stages' adapters into `folder`, with the spec and a card that says how to use them; returns the names."""
    names = ["README.md", SPEC]
    base = run.base_on_hub or Path(run.base).as_posix()
    shutil.copyfile(run.folder / "merge" / SPEC, folder / SPEC)
    for adapter in run.adapters:
        place = folder / adapter.parent.name
        place.mkdir()
        shutil.copyfile(adapter / "adapter_model.safetensors", place / "adapter_model.safetensors")
        config = json.loads((adapter / "adapter_config.json").read_text())
        # Stage 2's names a folder of the training machine.
        (place / "adapter_config.json").write_text(
            json.dumps({**config, "base_model_name_or_path": base}, indent=2) + "\n"
        )
        names += [f"{place.name}/{name}" for name in ("adapter_config.json", "adapter_model.safetensors")]
    card = ModelCard.from_template(
        ModelCardData(library_name="peft", base_model=run.base_on_hub, tags=["lora", "reward-model", "image-editing"]),
        template_path=str(TEMPLATE),
        repo=repo,
        name=repo.split("/")[-1],
        base=base,
        stages=[adapter.parent.name for adapter in run.adapters],
    )
    (folder / "README.md").write_text(str(card))
    return names


def show(folder: Path, names: list[str], repo: str, revision: str, private: bool) -> None:
    """Prints what would be published: files, sizes, the card."""
    table = Table(title=f"{repo} @ {revision} ({'private' if private else 'public'})")
    table.add_column("file", no_wrap=True)
    table.add_column("bytes", justify="right")
    for name in names:
        table.add_row(name, f"{(folder / name).stat().st_size:,}")
    table.add_row("total", f"{sum((folder / name).stat().st_size for name in names):,}", style="bold")
    Console().print(table)
    print((folder / "README.md").read_text())
