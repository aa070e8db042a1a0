"""Images that arrive, change or go after a first run: the same command reads them, and does nothing where none did."""

import os
import shutil

import pytest

from tests.data.broken_rows import SC, row
from tests.data.conftest import data_recipe, human_rows, noise, prepared, write_lines
from tests.data.test_parts import NAMES, tar_bytes, write_parts


def write_images(folder, numbers):
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        noise(number).save(folder / f"{number}.png")


def stage_on(folder, rows, images=None, **changes):
    file = write_lines(folder / "rows.jsonl", rows)
    source = {"name": "x", "layout": "sharegpt", "path": str(file), "splits": {"train": 1}}
    recipe = data_recipe(folder, [source | ({"images": str(images)} if images else {})], **changes)
    done, report = prepared(recipe)
    assert done.returncode == 0, done.stderr
    return done.stdout, report["sources"]["x"]["kept"]


@pytest.mark.parametrize("where", ["beside the rows", "named", "named, the rows and the output in it", "linked"])
def test_images_that_come_later_are_read(tmp_path, where):
    write_images(tmp_path / "images", range(6))
    images = None
    if where == "named":
        images, _ = tmp_path / "elsewhere", (tmp_path / "images").rename(tmp_path / "elsewhere")
    if where.endswith("in it"):
        images = tmp_path
    if where == "linked":
        (tmp_path / "images").rename(tmp_path / "disk")
        (tmp_path / "images").symlink_to(tmp_path / "disk")
        (tmp_path / "disk" / "circle").symlink_to(tmp_path)
    prefix = "" if where == "named" else "images/"
    pairs = [(f"{prefix}{a}.png", f"{prefix}{b}.png") for a, b in ((0, 1), (2, 3), (4, 5), (6, 7))]
    rows = [row(SC, images=pair, instruction=f"Edit {number}.") for number, pair in enumerate(pairs)]
    assert stage_on(tmp_path, rows, images)[1] == 3
    assert "nothing to do" in stage_on(tmp_path, rows, images)[0]
    folder = images if where == "named" else tmp_path / "images"
    write_images(folder, (6, 7))
    printed, kept = stage_on(tmp_path, rows, images)
    assert kept == 4 and "made from something else (inputs.images of x.bytes" in printed
    assert "files: 6 -> 8" in printed
    assert "nothing to do" in stage_on(tmp_path, rows, images)[0]
    (folder / "7.png").write_bytes((folder / "7.png").read_bytes()[:-200])  # of the same name
    assert stage_on(tmp_path, rows, images)[1] == 3
    (folder / "7.png").unlink()
    (folder / "7.png").symlink_to(tmp_path / "nowhere")
    assert stage_on(tmp_path, rows, images)[1] == 3


def test_parts_that_change_are_read_again(tmp_path):
    parts = write_parts(tmp_path, tar_bytes())
    rows = [row(SC, images=tuple(pair), instruction=f"Edit {pair}.") for pair in (NAMES[:2], NAMES[2:4])]
    assert stage_on(tmp_path, rows, tmp_path / "images_part_")[1] == 2
    assert "nothing to do" in stage_on(tmp_path, rows, tmp_path / "images_part_")[0]
    os.utime(parts[1])
    assert "made anew" in stage_on(tmp_path, rows, tmp_path / "images_part_")[0]


def test_a_dataset_or_benchmark_that_changes_is_read_again(tmp_path):
    from data.inputs import input_states
    from data.recipe import DataRecipe

    folder, bench = tmp_path / "set" / "deep", tmp_path / "bench"
    folder.mkdir(parents=True)
    write_images(bench, (1, 2))
    recipe = DataRecipe(
        output_dir=tmp_path / "set" / "out",
        sources=[{"name": "x", "layout": "editreward", "path": str(tmp_path / "set"), "splits": {"rl": 1}}],
        benchmarks=[bench],
        pixels={"min": 256, "max": 4096, "multiple": 16},
        max_new_tokens=320,
    )
    states = [input_states(recipe)]
    for change in (
        lambda: human_rows(folder),
        lambda: write_images(bench / "more", (3,)),
        lambda: shutil.copy(bench / "1.png", bench / "2.png"),
    ):
        change()
        states.append(input_states(recipe))
    (tmp_path / "set" / "out").mkdir()
    for file in ("set/out/train.parquet", "set/.cache.lock", "bench/.cache/x.metadata", "set/.git/index"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("ours, or of a tool")
    (tmp_path / "set" / ".cache.lock").unlink()
    assert input_states(recipe) == states[-1]
    assert len({str(state) for state in states}) == len(states)
