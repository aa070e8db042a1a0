"""The stage on inputs that go wrong, and on a score range of another kind: one line, or rows that are right."""

import io
import json
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time

import pytest
from PIL import Image, ImageOps

from spatial_edit_reward import load_spec
from tests.conftest import run_stage
from tests.data.broken_rows import PQ, SC, row, sc
from tests.data.conftest import data_recipe, noise, prepared, run_module, write_lines

GROUPS = {"train": 1, "validation": 1, "rl": 1, "heldout": 1}


def source(file, images, **changes):
    return {
        "name": "x",
        "layout": "spatialreward",
        "path": str(file),
        "images": str(images),
        "splits": {"train": 1},
        **changes,
    }


def test_a_damaged_file_among_good_rows_drops_its_row_alone(images, tmp_path):
    """Pillow lets out a TypeError for each of the two."""
    buffer = io.BytesIO()
    noise(1).save(buffer, "TIFF", save_all=True, append_images=[noise(3)])
    tiff = buffer.getvalue()
    (directory,) = struct.unpack_from("<I", tiff, 4)
    (entries,) = struct.unpack_from("<H", tiff, directory)
    (second,) = struct.unpack_from("<I", tiff, directory + 2 + 12 * entries)
    width = tiff.index(struct.pack("<H", 256), second)  # of the second frame: it is one no more
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "tiff.png").write_bytes(tiff[:width] + struct.pack("<H", 999) + tiff[width + 2 :])
    # Orientation 6, and a resolution that is text.
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0")
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0)
    noise(2).save(damaged / "exif.jpg", exif=exif)
    for name in ("a.png", "b.png"):
        (damaged / name).write_bytes((images / name).read_bytes())
    with pytest.raises(TypeError), Image.open(damaged / "tiff.png") as opened:
        opened.n_frames  # noqa: B018 - a property that reads the file
    with pytest.raises(TypeError), Image.open(damaged / "exif.jpg") as opened:
        ImageOps.exif_transpose(opened)
    rows = [row(SC, images=("a.png", name)) for name in ("b.png", "tiff.png", "exif.jpg", "b.png")]
    done, report = prepared(data_recipe(tmp_path, [source(write_lines(tmp_path / "rows.jsonl", rows), damaged)]))
    assert done.returncode == 0, done.stderr
    assert report["sources"]["x"]["dropped"] == {"bad_image": 2} and report["sources"]["x"]["kept"] == 2
    assert report["examples"]["bad_image"]["location"].endswith("rows.jsonl, line 2")


def test_a_link_that_leads_nowhere_is_named_or_passed_over(images, tmp_path):
    bench = tmp_path / "bench"
    bench.mkdir()
    noise(77).save(bench / "0.png")
    (bench / "gone.txt").symlink_to(tmp_path / "nowhere")
    recipe = data_recipe(
        tmp_path, [source(write_lines(tmp_path / "rows.jsonl", [sc()]), images)], benchmarks=[str(bench)]
    )
    done, _ = prepared(recipe)
    assert done.returncode == 0, done.stderr
    (bench / "1.png").symlink_to(tmp_path / "nowhere")
    done, _ = prepared(recipe)
    assert done.returncode == 1
    assert "1.png: a link that leads nowhere" in done.stderr.strip().splitlines()[-1] and "Traceback" not in done.stderr


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    """Files of more than 4 kB cannot be written, which is how a disk that is full looks to the stage."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    recipe = data_recipe(tmp_path, [], synthetic_groups=GROUPS)
    done = run_stage("data", "--config", recipe, preexec_fn=limit)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / 'data'}: ") and "File too large" in last
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data.yaml"]


def test_processes_that_cannot_start_are_one_line(images, tmp_path):
    """A container without a writable /dev/shm, as a namespace of its own mounts it."""
    read_only = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o ro none /dev/shm && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*read_only, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces here")
    rows = write_lines(tmp_path / "rows.jsonl", [sc()])
    for processes, status in ((2, 1), (1, 0)):
        recipe = data_recipe(tmp_path, [source(rows, images)], processes=processes)
        done = subprocess.run(
            [*read_only, sys.executable, "-m", "data", "--config", str(recipe)], capture_output=True, text=True
        )
        assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
        assert ("`processes: 1` works" in done.stderr) == bool(status)


def test_a_process_that_is_killed_is_one_line(images, tmp_path):
    import psutil

    rows = write_lines(tmp_path / "rows.jsonl", [{**sc(), "id": str(number)} for number in range(20_000)])
    recipe = data_recipe(tmp_path, [source(rows, images)], processes=2)
    with subprocess.Popen(
        [sys.executable, "-m", "data", "--config", str(recipe)], stderr=subprocess.PIPE, text=True
    ) as stage:
        own = psutil.Process(stage.pid)
        while not any("spawn_main" in " ".join(child.cmdline()) for child in own.children()):
            time.sleep(0.05)
        child = next(child for child in own.children() if "spawn_main" in " ".join(child.cmdline()))
        child.kill()
        errors = stage.stderr.read()
    assert stage.returncode == 1 and "Traceback" not in errors
    assert "one of the processes was killed" in errors.strip().splitlines()[-1]


def test_scores_of_0_to_10_run_through_the_stage(images, tmp_path):
    from data.rows import for_training, load_rows

    rows = [sc(), row({**PQ, "score": [7.5, 10]}, images=("b.png",))]
    recipe = data_recipe(
        tmp_path,
        [
            source(write_lines(tmp_path / "of25.jsonl", rows), images, name="of25"),
            source(write_lines(tmp_path / "of10.jsonl", rows[1:]), images, name="of10", score_range=[0, 10]),
        ],
        score_range=[0, 10],
        synthetic_groups=GROUPS,
    )
    done, _ = prepared(recipe)
    assert done.returncode == 0, done.stderr
    spec = load_spec(tmp_path / "data")
    assert (
        spec.score_range
        == (0, 10)
        == tuple(json.loads((tmp_path / "data" / "verdict.json").read_text())["score_range"])
    )
    train = load_rows(tmp_path / "data" / "train.parquet", spec)
    scores = {row["id"]: row["reference"]["score"] for row in train.texts()}
    assert scores["of25-0-sc"] == [8, 6] and scores["of25-1-pq"] == pytest.approx([3, 4])
    assert scores["of10-0-pq"] == [7.5, 10]
    synthetic = [score for name, score in scores.items() if name.startswith("synthetic-")]
    assert max(map(max, synthetic)) == 10 and min(map(min, synthetic)) >= 0
    for trained in for_training(train, spec, completions=True):
        prompt, verdict = (trained[key][-1]["content"][-1]["text"] for key in ("prompt", "completion"))
        assert "from 0 to 10" in prompt and "25" not in prompt
        # As it is read: 12 of 25 is 4.8, and not the 4.800000190734863 that its float32 is.
        assert all(len(str(score)) <= 4 and 0 <= score <= 10 for score in json.loads(verdict)["score"])


def test_scores_of_0_to_100_are_valid_in_their_range(images, tmp_path):
    recipe = data_recipe(tmp_path, [source(write_lines(tmp_path / "rows.jsonl", [sc()]), images)], score_range=[0, 100])
    done, report = prepared(recipe)
    assert done.returncode == 0, done.stderr
    assert report["sources"]["x"]["kept"] == 1 and report["scores"]["sc"] == {"0": {"80": 1}, "1": {"60": 1}}


@pytest.mark.parametrize("score_range", [[10, 0], [5, 5], [0, float("inf")], [float("nan"), 25], [0]])
def test_a_score_range_that_cannot_be_is_refused(tmp_path, score_range):
    done, _ = prepared(data_recipe(tmp_path, [], synthetic_groups=GROUPS, score_range=score_range))
    assert done.returncode == 1 and "data.yaml: score_range" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": GROUPS}, "unknown key 'groups'; did you mean synthetic_groups?"),
        ({"keep": {}}, "unknown key 'keep'; known: output_dir, seed, sources, synthetic_groups, subsample"),
        ({"size": 64}, "unknown key 'size'; did you mean image_size?"),
        ({"image_sise": 64}, "unknown key 'image_sise'; did you mean image_size"),
    ],
)
def test_a_key_that_is_none_is_refused(tmp_path, change, message):
    done, _ = prepared(data_recipe(tmp_path, [], synthetic_groups=GROUPS, **change))
    assert done.returncode == 1 and message in done.stderr.strip().splitlines()[-1]


def test_a_folder_of_other_files_is_never_replaced(images, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    recipe = data_recipe(tmp_path, [source(write_lines(tmp_path / "rows.jsonl", [sc()]), images)])
    for arguments in ([], ["--overwrite"]):
        done = run_module("data", "--config", str(recipe), *arguments)
        assert done.returncode == 1 and str(tmp_path / "data") in done.stderr.strip().splitlines()[-1]
        assert [file.name for file in (tmp_path / "data").iterdir()] == ["mine.txt"]
