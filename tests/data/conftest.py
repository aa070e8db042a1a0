"""Images of every sort, sound and broken, as files; and the stage on a list of rows."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

import numpy as np
import pytest
import yaml
from PIL import Image


def noise(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """An image like no other: smooth blobs, so that its JPEG looks the same."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def write_images(folder: Path) -> Path:
    """`folder/images` with the images that the broken rows name, and `folder/benchmark` with one of them."""
    images, benchmark = folder / "images", folder / "benchmark"
    (images / "folder").mkdir(parents=True)
    benchmark.mkdir()
    for seed, name in enumerate(("a.png", "b.png", "known.png")):
        noise(seed).save(images / name)
    noise(2, (96, 96)).save(benchmark / "0.png")
    noise(2).save(images / "known.jpg", quality=80)
    noise(3).save(images / "sound.jpg")
    noise(4).convert("CMYK").save(images / "cmyk.jpg")
    clear = noise(5).convert("RGBA")
    clear.putalpha(128)
    clear.save(images / "clear.png")
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16).save(images / "deep.png")
    noise(6).save(images / "moving.gif", save_all=True, append_images=[noise(7)])
    exif = Image.new("RGB", (1, 1)).getexif()
    exif[0x0112] = 6
    noise(8, (96, 64)).save(images / "turned.jpg", exif=exif)
    for name in ("cut.jpg", "cut.png"):
        content = (images / {"cut.jpg": "sound.jpg", "cut.png": "a.png"}[name]).read_bytes()
        (images / name).write_bytes(content[: len(content) // 2])
    (images / "text.png").write_text("no image")
    (images / "empty.png").write_bytes(b"")
    Image.new("1", (9000, 9000)).save(images / "huge.png")
    with (images / "heavy.png").open("wb") as heavy:
        heavy.truncate(65 * 2**20)
    noise(9).save(folder / "secret.png")
    return images


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


def write_lines(file: Path, rows: list) -> Path:
    """JSON lines; a row that is text is written as it is."""
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def data_recipe(folder: Path, sources: list[dict], **changes: object) -> Path:
    """A data.yaml on `sources` in `folder`."""
    recipe = {
        "output_dir": str(folder / "data"),
        "sources": sources,
        "pixels": {"min": 256, "max": 4096, "multiple": 16},
        "max_new_tokens": 320,
        "processes": 1,
        **changes,
    }
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return file


def run_module(name: str, *arguments: str) -> CompletedProcess[str]:
    """`python -m NAME ARGUMENTS` in this process: what it returns and prints."""
    main = import_module(f"{name}.__main__" if name == "data" else name).main
    command = [name, *arguments]
    out, err = io.StringIO(), io.StringIO()
    status: object = 0
    with patch("sys.argv", command), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            status = stop.code
    if isinstance(status, str):  # as Python prints it
        err.write(f"{status}\n")
        status = 1
    return CompletedProcess(command, status, out.getvalue(), err.getvalue())


def prepared(recipe: Path):
    """The data stage on `recipe`: (what it printed and returned, its report, None where it failed)."""
    done = run_module("data", "--config", str(recipe))
    report = recipe.parent / "data" / "data_report.json"
    return done, json.loads(report.read_text()) if report.exists() else None


def human_rows(folder: Path) -> Path:
    """EditReward-Data's columns, two rows, as a Parquet file."""
    from datasets import Dataset, Features, Image, Value

    kinds = {"source_img": Image(), "left_output_image": Image(), "right_output_image": Image()}
    numbers = [
        f"{side}_{of}_score" for side in ("left", "right") for of in ("instruction_following", "quality_aesthetic")
    ]
    features = Features(
        {
            "instruction": Value("string"),
            **kinds,
            **{name: Value("float32") for name in numbers},
            "vote_type": Value("string"),
        }
    )
    rows = [
        {
            "instruction": "Add a cup.",
            **{name: noise(seed + at) for at, name in enumerate(kinds)},
            **dict(zip(numbers, (4.0, 2.5, 1.0, None if seed else 4.0), strict=True)),
            "vote_type": "left",
        }
        for seed in (0, 20)
    ]
    Dataset.from_list(rows, features=features).to_parquet(str(folder / "human.parquet"))
    return folder / "human.parquet"
