"""What rows cost a training process: memory, time to start, and disk, for few rows and for many.

    python -m tools.bench.rows_memory [--rows 200 20000] [--folder /tmp]

Writes rows of two 380 kB images (15 GB for 20,000) as the data stage does, trains the tiny base on them for 8 steps of two
rows, with two workers that load, and prints for each number of rows: anonymous memory of all its processes above the loaded
model, after 50 random rows and at most while it trains (activations included), the time to start, and what was written to
HF_HOME.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow
from PIL import Image

from data.rows import features, for_training, load_rows
from data.stored_rows import open_writer, rows_per_group
from spatial_edit_reward import Spec, load_spec, save_spec
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.images import encode
from spatial_edit_reward.spec import Pixels
from tools.bench.common import describe_machine

SIDE = 352  # of random pixels: as PNG 372 kB, what two edits of 512 x 512 take
BASE = "recipes/tiny/base"
CHUNK = 32


def anonymous_memory() -> int:
    """Bytes of this process and its children that no file holds; pages that processes share are counted once."""
    total = 0
    for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:"))
    return total


def write_rows(file: Path, count: int) -> None:
    """`count` rows of two images, as the data stage writes them: 32 distinct images, every row with its own words."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (CHUNK, SIDE, SIDE, 3), np.uint8)
    images = [{"bytes": encode(Image.fromarray(one), "png"), "path": None} for one in pixels]
    regions = [{"id": i, "label": "red cup on the table", "bbox_2d": [9.5 + i, 20, 300, 400]} for i in range(3)]
    reasoning = "<|bbox_0|> The cup is now blue, its handle and shadow are as they were. " * 3
    schema = features().arrow_schema
    with open_writer(file, schema) as writer:
        for start in range(0, count, CHUNK):
            rows = [
                {
                    "id": f"row-{start + i}",
                    "task": "sc",
                    "instruction": f"Make the red cup on the left blue, number {start + i}.",
                    "images": [images[i], images[(start + i) % CHUNK]],
                    "reference": {"edit_region": regions, "score": [20, 22.5], "reasoning": reasoning},
                    "group": f"group-{start}",
                    "source": "drawn",
                }
                for i in range(min(CHUNK, count - start))
            ]
            table = pyarrow.Table.from_pylist(rows, schema)
            writer.write_table(table, rows_per_group(table))


def train(file: Path) -> dict[str, float]:
    """Figures of a training run on the rows of `file`."""
    from transformers import TrainerCallback
    from trl import ModelConfig, SFTConfig

    from pipeline.model import Inputs
    from sft.train import build_trainer
    from spatial_edit_reward.inference.model import load_model, load_processor

    spec = load_spec(file.parent)
    model, processor = load_model(BASE, "float32", None), load_processor(BASE, spec)
    loaded, start, first_step = anonymous_memory(), time.perf_counter(), []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: object, **kwargs: object) -> None:
            first_step.append(time.perf_counter())

    processor_time = time.process_time()
    rows = for_training(load_rows(file, spec), spec, completions=True)
    read = time.process_time() - processor_time
    for index in np.random.default_rng(0).integers(len(rows), size=50):
        rows[int(index)]
    rows_memory = anonymous_memory() - loaded
    with tempfile.TemporaryDirectory() as output:
        args = SFTConfig(
            output_dir=output,
            max_steps=8,
            per_device_train_batch_size=2,
            dataloader_num_workers=2,
            max_length=None,
            completion_only_loss=True,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
        )
        targets = r"model\.language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj"
        options = ModelConfig(model_name_or_path=BASE, use_peft=True, lora_target_modules=targets)
        trainer = build_trainer(args, options, Inputs(model, processor, spec, rows))
        trainer.add_callback(Clock())
        peak, over = [anonymous_memory()], threading.Event()

        def watch() -> None:
            while not over.wait(0.2):
                peak.append(anonymous_memory())

        watcher = threading.Thread(target=watch)
        watcher.start()
        trainer.train()
        over.set()
        watcher.join()
    return {"read": read, "start": first_step[0] - start, "rows_memory": rows_memory, "memory": max(peak) - loaded}


def measure(file: Path, count: int) -> dict[str, float]:
    """`train` in a process of its own, with an HF_HOME of its own."""
    with tempfile.TemporaryDirectory(dir=file.parent) as home:
        environment = {**os.environ, "HF_HOME": home, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-m", "tools.bench.rows_memory", "--train", str(file)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, encoding="utf-8")
        copied = sum(path.stat().st_size for path in Path(home).rglob("*") if path.is_file())
    return {**json.loads(done.stdout.splitlines()[-1]), "rows": count, "copied": copied, "size": file.stat().st_size}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.rows_memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[200, 20000], help="numbers of rows (default: 200 20000)"
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where there is room for them")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        print(json.dumps(train(arguments.train)))
        return
    needed, free = max(arguments.rows) * 2 * 380_000, shutil.disk_usage(arguments.folder).free
    if needed > 0.9 * free:
        raise UserError(f"{arguments.folder}: {needed / 1e9:.0f} GB are needed, {free / 1e9:.0f} GB are free")
    print(
        "| rows | file, GB | memory above the model after 50 random rows, MB | while it trains, MB "
        "| processor s to read the texts | s to the first step | copied, MB |"
    )
    print("|---|---|---|---|---|---|---|")
    for count in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            file = Path(folder) / "train.parquet"
            save_spec(Spec(pixels=Pixels(min=256, max=4096, multiple=16), max_new_tokens=320), file.parent)
            write_rows(file, count)
            at = measure(file, count)
        memory = [f"{at[name] / 1e6:.0f}" for name in ("rows_memory", "memory")]
        cells = [f"{count:,}", f"{at['size'] / 1e9:.2f}", *memory, f"{at['read']:.1f}", f"{at['start']:.1f}"]
        print(f"| {' | '.join(cells)} | {at['copied'] / 1e6:.1f} |", flush=True)
    print(describe_machine())


if __name__ == "__main__":
    main()
