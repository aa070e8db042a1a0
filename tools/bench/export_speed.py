"""Time and memory of a merge against copying the files, and against PEFT's merge_and_unload with save_pretrained.

    python -m tools.bench.export_speed            # some minutes, 10 GB of disk under --folder

A random checkpoint of the model's family, 2 GB of bf16 in two shards, with a LoRA of rank 32 on the language model's seven
projections. Every method runs in a process of its own, in turn, three times; every file is synced to disk; the table shows
medians. Memory is the peak of anonymous memory above the process's level after imports. Verification is not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROUNDS = 3
TINY = Path("recipes/tiny/base")
LIMIT_TIME = 3.0  # of copying
LIMIT_MEMORY = 1.25  # of the larger shard, and the adapter


def make_inputs(base: Path, adapter: Path) -> None:
    """Writes the checkpoint and the adapter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForImageTextToText

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(TINY)
    sizes = {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 20, "num_attention_heads": 16}
    sizes |= {"num_key_value_heads": 8, "head_dim": 128}
    for name, value in sizes.items():
        setattr(config.text_config, name, value)
    config.text_config.rope_parameters["mrope_section"] = [24, 20, 20]
    config.vision_config.out_hidden_size = 2048
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    shutil.copytree(TINY, base, ignore=shutil.ignore_patterns("*.safetensors"))
    model.save_pretrained(base, max_shard_size="1100MB")
    targets = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    adapted = get_peft_model(model, LoraConfig(r=32, lora_alpha=64, target_modules=targets))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    adapted.save_pretrained(adapter)


def sync(folder: Path) -> None:
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def copy_files(base: Path, adapter: Path, folder: Path) -> Callable[[], None]:
    def work() -> None:
        for file in base.iterdir():
            shutil.copyfile(file, folder / file.name)
        sync(folder)

    return work


def merge_adapter(base: Path, adapter: Path, folder: Path) -> Callable[[], None]:
    from export.merge import adapted, write_merged
    from spatial_edit_reward import Spec
    from spatial_edit_reward.spec import Pixels

    spec = Spec(pixels=Pixels(min=256, max=4096, multiple=16), max_new_tokens=320)
    return lambda: write_merged(base, adapted(base, [adapter]), spec, folder)  # syncs by itself


def merge_by_peft(base: Path, adapter: Path, folder: Path) -> Callable[[], None]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    def work() -> None:
        model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.bfloat16)
        merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
        merged.save_pretrained(folder, max_shard_size="1100MB")
        AutoProcessor.from_pretrained(base).save_pretrained(folder)
        sync(folder)

    return work


METHODS = {"copy": copy_files, "merge": merge_adapter, "peft": merge_by_peft}


def anonymous() -> int:
    """Bytes of anonymous memory that this process holds now."""
    return int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))[1]) * 1024  # type: ignore[index]


def measured(work: Callable[[], None]) -> dict[str, float]:
    """Seconds that `work` takes, and the peak of anonymous memory meanwhile above the level before, in bytes."""
    before = peak = anonymous()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return {"seconds": seconds, "peak": peak - before}


def run_method(method: str, folder: Path) -> dict[str, float]:
    """Time and memory of one method, in a process of its own; what it wrote is removed."""
    command = [sys.executable, "-m", "tools.bench.export_speed", "--folder", str(folder), "--method", method]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(folder: Path) -> bool:
    """Runs all methods and prints the table; True if the limits are kept."""
    make = [sys.executable, "-m", "tools.bench.export_speed", "--folder", str(folder), "--method", "make"]
    subprocess.run(make, check=True)
    shards = [file.stat().st_size for file in (folder / "base").glob("*.safetensors")]
    adapter = (folder / "adapter" / "adapter_model.safetensors").stat().st_size
    rounds = [{method: run_method(method, folder) for method in METHODS} for _ in range(ROUNDS)]
    seconds = {method: statistics.median(one[method]["seconds"] for one in rounds) for method in METHODS}
    peaks = {method: max(one[method]["peak"] for one in rounds) for method in METHODS}
    allowed = LIMIT_MEMORY * max(shards) + adapter
    table = Table(title=f"{sum(shards) / 1e9:.2f} GB in {len(shards)} shards, adapter {adapter / 1e6:.0f} MB")
    for name in ("method", "seconds", "all rounds", "x copy", "peak MB", f"of {allowed / 1e6:.0f} MB allowed"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for method in METHODS:
        each = ", ".join(f"{one[method]['seconds']:.1f}" for one in rounds)
        ratio, share = seconds[method] / seconds["copy"], peaks[method] / allowed
        table.add_row(
            method, f"{seconds[method]:.1f}", each, f"{ratio:.2f}", f"{peaks[method] / 1e6:.0f}", f"{share:.2f}"
        )
    Console(width=120).print(table)
    return seconds["merge"] <= min(LIMIT_TIME * seconds["copy"], seconds["peft"]) and peaks["merge"] <= allowed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder to work in (default: a temporary one, removed afterwards)")
    parser.add_argument("--method", choices=["make", *METHODS], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.method is None:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            sys.exit(0 if compare(Path(folder)) else "error: a limit is not kept")
    folder = arguments.folder
    if arguments.method == "make":
        return make_inputs(folder / "base", folder / "adapter")
    output = folder / arguments.method
    output.mkdir()
    print(json.dumps(measured(METHODS[arguments.method](folder / "base", folder / "adapter", output))))
    shutil.rmtree(output)


if __name__ == "__main__":
    main()
