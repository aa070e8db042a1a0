"""Boxes in five conventions: read as declared, and refused where a source declares another one than it has."""

import json

import numpy as np
import pytest
from PIL import Image

from data.cleaning.box_format import BOX_FORMATS, BoxCounts, to_thousandths
from data.cleaning.box_order import order_problem, x_first
from data.rows import for_training, load_rows
from spatial_edit_reward import load_spec
from tests.data.broken_rows import SC, row
from tests.data.conftest import data_recipe, noise, prepared, write_lines

SIZES = [(64, 64), (512, 512), (640, 480), (768, 768), (4000, 3000)]


def written(box, box_format, size):
    """A box in thousandths as another convention has it."""
    x1, y1, x2, y2 = box
    left, top, right, bottom = (round(corner * side / 1000) for corner, side in zip(box, size * 2, strict=True))
    return {
        "xyxy_1000": box,
        "xyxy_1": [corner / 1000 for corner in box],
        "xyxy_pixel": [left, top, right, bottom],
        "xywh_pixel": [left, top, right - left, bottom - top],
        "yxyx_1000": [y1, x1, y2, x2],
    }[box_format]


def regions(count, seed=0, smallest=60, largest=700):
    """Boxes in thousandths as edits have them: anywhere, and one of ten is the background, which is all of the image."""
    rng = np.random.default_rng(seed)
    boxes = []
    for _ in range(count):
        width, height = rng.integers(smallest, largest, 2)
        x, y = rng.integers(0, 1001 - width), rng.integers(0, 1001 - height)
        boxes.append([0, 0, 1000, 1000] if rng.random() < 0.1 else [*map(int, (x, y, x + width, y + height))])
    return boxes


def problem(boxes, true, declared, sizes):
    counts = BoxCounts(declared)
    for number, box in enumerate(boxes):
        size = sizes[number % len(sizes)]
        counts.add(written(box, true, size), size, f"row {number}")
    return counts.problem


def one_scale(*formats):
    """Whether the formats differ in the order of x and y alone, which no number shows."""
    return {*formats} <= {"xyxy_1000", "yxyx_1000"}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("true", BOX_FORMATS)
def test_boxes_of_another_format_are_told_by_their_numbers(true, size):
    for declared in BOX_FORMATS:
        reason = problem(regions(60), true, declared, [size])
        if declared == true or one_scale(declared, true):
            assert reason is None, declared
        else:
            likely = "xyxy_1000" if true == "yxyx_1000" else true
            assert f"box_format {declared}: " in reason and f"write `box_format: {likely}`" in reason, declared
            assert f"image of {size[0]} x {size[1]} pixels" in reason


@pytest.mark.parametrize(
    ("boxes", "sizes"),
    [
        (regions(3000, smallest=5, largest=60), [(512, 512), (1024, 768)]),  # small regions
        (regions(20), [(64, 64)]),
        (regions(20), [(2000, 1500)]),
        (
            [[300 + n % 90, 150 + n % 70, 500 + n % 200, 400 + n % 140] for n in range(3000)],
            [(768, 768), (640, 960)],
        ),  # faces
        ([[0, 0, 1000, 250 + n % 99] for n in range(3000)], [(640, 480)]),  # skies
        ([[400, 400, 600 + n % 40, 600 + n % 30] for n in range(3000)], [(700, 700)]),  # in the middle
        ([[n % 400, n % 300, 1000, 1000] for n in range(3000)], [(512, 512)]),
    ],
)
def test_boxes_of_the_declared_format_raise_no_alarm(boxes, sizes):
    for box_format in BOX_FORMATS:
        assert problem(boxes, box_format, box_format, sizes) is None


def test_a_few_bad_boxes_of_many_are_no_other_format():
    boxes = [*regions(200), *([300, 200, 100, 100] for _ in range(8)), [10, 10, 1500, 900]]
    assert problem(boxes, "xyxy_1000", "xyxy_1000", [(1024, 1024)]) is None


def test_the_order_of_x_and_y_shows_in_what_an_edit_changed():
    """Also where all of the image changed a little; and images of nothing in common show no order."""
    for declared in ("xyxy_1000", "yxyx_1000"):
        orders = []
        for number, box in enumerate(regions(40, seed=5, largest=400)):
            source, rng = noise(number, (160, 120)), np.random.default_rng(number)
            pixels = np.asarray(source, dtype=np.int16) + rng.integers(-9, 9, (120, 160, 3))
            x1, y1, x2, y2 = (round(corner * side / 1000) for corner, side in zip(box, (160, 120) * 2, strict=True))
            pixels[y1:y2, x1:x2] += 60
            read = box if declared == "xyxy_1000" else [box[1], box[0], box[3], box[2]]
            orders.append(x_first(source, Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), [read]))
        assert orders.count(declared != "xyxy_1000") == 0 and orders.count(declared == "xyxy_1000") >= 12
        problem = order_problem(orders.count(True), orders.count(False), "xyxy_1000")
        assert (problem is None) == (declared == "xyxy_1000")
    assert "write `box_format: yxyx_1000`" in problem
    unlike = [x_first(noise(n), noise(1000 + n), [box]) for n, box in enumerate(regions(200, seed=6))]
    for start in range(0, 200, 40):
        rows = unlike[start : start + 40]
        assert order_problem(rows.count(True), rows.count(False), "xyxy_1000") is None


def test_conversion():
    assert to_thousandths([0.1256, 0.25, 0.5, 1], "xyxy_1") == [126, 250, 500, 1000]
    assert to_thousandths([64, 30, 320, 240], "xyxy_pixel", (640, 480)) == [100, 62, 500, 500]
    assert to_thousandths([64, 30, 256, 210], "xywh_pixel", (640, 480)) == [100, 62, 500, 500]
    assert to_thousandths([62, 100, 500, 500], "yxyx_1000") == [100, 62, 500, 500]
    assert to_thousandths([125.5, 250.25, 406.75, 531], "xyxy_1000") == [125.5, 250.25, 406.75, 531]


COUNT = 24
SIZE = (120, 80)  # of the files; the model gets other sizes
TRUE = regions(COUNT, seed=3, smallest=150)


def stage(folder, true, declared, key="bbox_2d", boxes=TRUE, cut=False):
    """The data stage on COUNT rows with boxes written as `true`, in a source that declares `declared`."""
    (folder / "images").mkdir()
    rows = []
    for number, box in enumerate(boxes):
        image = folder / "images" / f"{number}.png"
        noise(number, SIZE).save(image)
        if cut:
            image.write_bytes(image.read_bytes()[:200])
        region = {"id": 0, "label": "cup", key: written(box, true, SIZE)}
        images = (f"images/{number}.png", f"images/{number}.png")
        rows.append(row({**SC, "edit_region": [region]}, images=images, instruction=f"Make cup {number} blue."))
    source = {
        "name": "x",
        "layout": "spatialreward",
        "path": str(write_lines(folder / "rows.jsonl", rows)),
        "splits": {"train": 1},
    }
    return prepared(data_recipe(folder, [source | ({"box_format": declared} if declared else {})]))


@pytest.mark.parametrize("box_format", BOX_FORMATS)
def test_boxes_are_read_as_declared_and_trained_in_thousandths(tmp_path, box_format):
    key = {"yxyx_1000": "box_2d", "xywh_pixel": "bbox"}.get(box_format, "bbox_2d")
    done, report = stage(tmp_path, box_format, box_format, key)
    assert done.returncode == 0, done.stderr
    assert report["sources"]["x"]["kept"] == COUNT and report["sources"]["x"]["fixed"] == {} and report["notes"] == []
    spec = load_spec(tmp_path / "data")
    rows = load_rows(tmp_path / "data" / "train.parquet", spec)
    a_pixel = max(1000 / side for side in SIZE) if box_format.endswith("pixel") else 0
    for trained, canonical, box in zip(for_training(rows, spec, completions=True), rows, TRUE, strict=True):
        stored = canonical["reference"]["edit_region"][0]["bbox_2d"]
        assert np.abs(np.subtract(stored, box)).max() <= a_pixel
        completion = json.loads(trained["completion"][-1]["content"][-1]["text"])
        assert completion["edit_region"][0]["bbox_2d"] == stored and all(corner == int(corner) for corner in stored)


@pytest.mark.parametrize(
    ("true", "declared", "likely"),
    [
        ("xyxy_1", None, "xyxy_1"),
        ("xyxy_pixel", None, "xyxy_pixel"),
        ("xywh_pixel", None, "xywh_pixel"),
        ("xywh_pixel", "xyxy_pixel", "xywh_pixel"),
        ("xyxy_pixel", "xywh_pixel", "xyxy_pixel"),
        ("xyxy_1000", "xyxy_1", "xyxy_1000"),
        ("xyxy_1000", "xyxy_pixel", "xyxy_1000"),
        ("xyxy_pixel", "yxyx_1000", "xyxy_pixel"),
    ],
)
def test_a_source_of_another_format_ends_the_stage(tmp_path, true, declared, likely):
    done, _ = stage(tmp_path, true, declared)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith(f"error: source 'x': box_format {declared or 'xyxy_1000'}: ")
    assert f"write `box_format: {likely}`" in last and "rows.jsonl, line" in last
    assert not (tmp_path / "data").exists()


def test_names_of_other_conventions_are_not_read_as_ours(tmp_path):
    """`box_2d` is y first by its name, whatever else is declared; `bbox` may be a corner and a size."""
    for key, declared, advice in (
        ("box_2d", None, "yxyx_1000"),
        ("box_2d", "xyxy_pixel", "yxyx_1000"),
        ("bbox", None, "xywh"),
    ):
        folder = tmp_path / f"{key}-{declared}"
        folder.mkdir()
        done, _ = stage(folder, "yxyx_1000", declared, key)
        last = done.stderr.strip().splitlines()[-1]
        assert (
            done.returncode == 1 and f"source 'x': no row was kept: {COUNT} of {COUNT} were dropped as box_key" in last
        )
        assert f"{advice}" in last and f"'{key}'" in last


def test_few_boxes_prove_nothing_and_are_noted(tmp_path):
    done, report = stage(
        tmp_path, "xyxy_pixel", None, boxes=[[0, 0, 500, 900], [100, 100, 600, 500], [200, 300, 900, 980]]
    )
    assert done.returncode == 0, done.stderr
    (note,) = report["notes"]
    assert note.startswith("x: box_format xyxy_1000: ") and "write `box_format: xyxy_pixel`" in note
    assert f"note: {note}" in done.stdout


def test_corners_and_sizes_of_few_boxes_are_dropped_not_exchanged(tmp_path):
    done, report = stage(
        tmp_path, "xywh_pixel", None, boxes=[[500, 400, 700, 600], [100, 100, 300, 250], [10, 10, 900, 900]]
    )
    assert done.returncode == 0, done.stderr
    assert report["sources"]["x"]["dropped"] == {"box_swapped": 1} and report["sources"]["x"]["fixed"] == {}
    assert "xywh_pixel" in report["examples"]["box_swapped"]["detail"]


def test_a_wrong_format_shows_before_images_are_decoded(tmp_path):
    """The first bytes of a file have its size; its pixels, which are cut off here, need hours for all rows."""
    done, _ = stage(tmp_path, "xywh_pixel", None, cut=True)
    assert done.returncode == 1 and "write `box_format: xywh_pixel`" in done.stderr.strip().splitlines()[-1]
    folder = tmp_path / "right"
    folder.mkdir()
    done, _ = stage(folder, "xywh_pixel", "xywh_pixel", cut=True)
    assert done.returncode == 1 and "were dropped as bad_image" in done.stderr.strip().splitlines()[-1]
