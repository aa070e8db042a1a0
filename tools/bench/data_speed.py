"""How fast is the data stage? Rows a second, compared with PIL alone in the same pool; and peak memory by row count.

    python -m tools.bench.data_speed                     # 300 pairs of 1024 x 1024 and 300 of 512 x 512 JPEGs
    python -m tools.bench.data_speed --memory 1000 20000 # the peak memory of the stage on so many rows of 512 x 512

The stage reads, validates, resizes, hashes and writes; PIL alone decodes, resizes, hashes and encodes the same images in the
same number of processes and the same codec. 512 x 512 pairs are not resized and keep their bytes, where PIL alone encodes
nothing either. Both are timed without the start of their processes, one after the other, three times; the medians are shown.
Every row of the memory check keeps its images' bytes, so that 20,000 of them take 5 GB of disk and not 20.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml
from PIL import Image
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from data.build import CHUNK, build
from data.cleaning.prepare import Context
from data.recipe import DataRecipe, Source
from data.rows import features
from data.sources import open_sources
from spatial_edit_reward.spec import Pixels

LIMITS = {"min": 4096, "max": 262_144, "multiple": 32}
FITTED = (512, 512)
TARGET = 0.8
VERDICT = {
    "edit_region": [{"id": 0, "label": "cup", "bbox_2d": [10, 20, 300, 400]}],
    "reasoning": "<|bbox_0|> the cup became blue as asked. <|global|> the request was done well.",
    "score": [20, 15],
}


def write_image(folder: Path, side: int, seed: int) -> None:
    """A JPEG of `side` pixels with the detail of a photograph: smooth shapes and some grain."""
    rng = np.random.default_rng(seed)
    shapes = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, 6, (side, side, 1))
    pixels = np.clip(np.asarray(shapes) + grain, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / f"{seed}.jpg", quality=92)


def write_rows(folder: Path, side: int, count: int, distinct: int, processes: int) -> Path:
    """`count` pairs over `distinct` pairs of images, as SpatialReward-Train's layout."""
    (folder / "images").mkdir(parents=True)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        made = pool.map(partial(write_image, folder / "images", side), range(2 * distinct), chunksize=8)
        list(tqdm(made, total=2 * distinct, desc=f"images of {side}", unit="image"))
    with (folder / "data.jsonl").open("w", encoding="utf-8") as out:
        for number in range(count):
            images = [f"images/{2 * (number % distinct) + i}.jpg" for i in range(2)]
            turns = [
                {"role": "user", "content": f"<image><image>Judge this edit: Make cup {number} blue."},
                {"role": "assistant", "content": json.dumps(VERDICT)},
            ]
            out.write(
                json.dumps({"images": images, "instruction": f"Make cup {number} blue.", "messages": turns}) + "\n"
            )
    return folder / "data.jsonl"


def pil_alone(files: list[Path]) -> int:
    """Decodes, resizes, hashes and encodes each image; returns the bytes made. One of the right size keeps its own."""
    made = 0
    for file in files:
        content = file.read_bytes()
        image = Image.open(io.BytesIO(content)).convert("RGB")
        keeps = image.size == FITTED
        image = image if keeps else image.resize(FITTED, Image.Resampling.BICUBIC)
        hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        buffer = io.BytesIO(content if keeps else b"")
        if not keeps:
            image.save(buffer, "PNG", compress_level=1)
        made += buffer.getbuffer().nbytes
    return made


def wait(_: int) -> None:
    time.sleep(0.2)


def time_pil(files: list[Path], processes: int) -> float:
    """Seconds for all `files` in a pool that has started."""
    parts = [files[start : start + 2 * CHUNK] for start in range(0, len(files), 2 * CHUNK)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(wait, range(processes)))
        start = time.perf_counter()
        list(pool.map(pil_alone, parts))
        return time.perf_counter() - start


def stage_rate(file: Path, processes: int) -> float:
    """Rows a second of the stage: on all rows of `file` over those on its first chunks, which start the same processes."""
    pixels = Pixels(**LIMITS)

    def seconds(rows: Path) -> float:
        source = Source(name="speed", layout="spatialreward", path=str(rows), splits={"train": 1})
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            recipe = DataRecipe(
                output_dir=Path(folder), sources=[source], pixels=pixels, max_new_tokens=1024, processes=processes
            )
            context = Context(recipe, recipe.spec(), features().arrow_schema)
            start = time.perf_counter()
            records, _ = build(context, open_sources(recipe), Path(folder))
            took = time.perf_counter() - start
        dropped = [row.error for row in records if row.error]
        assert not dropped, dropped[0]
        return took

    with file.open(encoding="utf-8") as opened:
        lines = list(opened)
    first = lines[: CHUNK * processes]
    few = file.with_name("few.jsonl")
    few.write_text("".join(first), encoding="utf-8")
    return (len(lines) - len(first)) / (seconds(file) - seconds(few))


def speed(count: int, processes: int, folder: Path) -> None:
    table = Table("pairs", title=f"{count} pairs, {processes} processes, median of 3")
    for name in ("stage, rows/s", "PIL alone, rows/s", f"ratio (target {TARGET})"):
        table.add_column(name, justify="right")
    for side in (1024, 512):
        file = write_rows(folder / str(side), side, count, count, processes)
        files = [folder / str(side) / "images" / f"{number}.jpg" for number in range(2 * count)]
        runs = [(stage_rate(file, processes), count / time_pil(files, processes)) for _ in range(3)]
        stage, alone = (median(column) for column in zip(*runs, strict=True))
        ratio = median(its / pil for its, pil in runs)
        table.add_row(f"{side} x {side}", f"{stage:.1f}", f"{alone:.1f}", f"{ratio:.2f}")
    Console(width=120).print(table)


def memory(counts: list[int], processes: int, folder: Path) -> None:
    """The stage as a process of its own on each count of rows: the peak of its largest process, children included."""
    table = Table("rows", "peak of the largest process, MB", "seconds", title=f"memory, {processes} processes")
    for count in counts:
        work = folder / f"memory{count}"
        file = write_rows(work, 512, count, min(count, 500), processes)
        recipe: dict[str, Any] = {
            "output_dir": str(work / "data"),
            "sources": [{"name": "speed", "layout": "spatialreward", "path": str(file), "splits": {"train": 1}}],
            "pixels": LIMITS,
            "max_new_tokens": 1024,
            "processes": processes,
        }
        (work / "data.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "data", "--config", str(work / "data.yaml")], check=True)
        # Of the children waited for so far: the counts rise, so the last one is the largest if memory is not flat.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        table.add_row(str(count), f"{peak:.0f}", f"{time.perf_counter() - start:.0f}")
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300, help="pairs of each size (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="default: %(default)s")
    parser.add_argument(
        "--memory", type=int, nargs="+", metavar="ROWS", help="measure memory at these row counts instead"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.memory:
            memory(sorted(arguments.memory), arguments.processes, Path(folder))
        else:
            speed(arguments.pairs, arguments.processes, Path(folder))


if __name__ == "__main__":
    main()
