"""A benchmark's images are known again: the same pixels exactly, another codec or size by the eye, other images not."""

import base64

import numpy as np
import pytest

from spatial_edit_reward.errors import UserError
from spatial_edit_reward.images import encode, fit
from spatial_edit_reward.spec import Pixels
from tests.data.conftest import noise

PIXELS = Pixels(min=256, max=4096, multiple=16)


def read(*folders):
    from data.hashes import read_benchmarks

    return read_benchmarks(folders, PIXELS, 4)


def overlap(benchmark, image):
    from data.hashes import pixel_hash

    fitted = fit(image, PIXELS)
    return benchmark.overlap(fitted, pixel_hash(fitted))


def image_table(*seeds):
    """One row as `datasets` has it, with an image and a list of images in it."""
    from datasets import Dataset, Features, Image, List

    first, *others = map(noise, seeds)
    features = Features({"source": Image(), "edits": List(Image())})
    return Dataset.from_list([{"source": first, "edits": others}], features=features)


def test_images_in_folders_and_in_parquet_are_known_again(tmp_path):
    from datasets import Image

    (tmp_path / "bench" / "deep").mkdir(parents=True)
    noise(0, (96, 96)).save(tmp_path / "bench" / "deep" / "0.png")
    image_table(1, 2, 3).to_parquet(str(tmp_path / "bench" / "rows.parquet"))
    benchmark = read(tmp_path / "bench")
    assert len(benchmark.exact) == len(benchmark.perceptual) == 4
    for seed in range(4):
        assert overlap(benchmark, noise(seed, (96, 96) if seed == 0 else (64, 64))) == "exact"
        assert overlap(benchmark, noise(seed, (200, 200))) == "perceptual"
        noise(seed).save(tmp_path / "lossy.jpg", quality=70)
        with Image().decode_example({"path": str(tmp_path / "lossy.jpg"), "bytes": None}) as lossy:
            assert overlap(benchmark, lossy) == "perceptual"
    assert {overlap(benchmark, noise(seed)) for seed in range(4, 60)} == {None}


def known(benchmark, seeds):
    return [seed for seed in seeds if overlap(benchmark, noise(seed)) == "exact"]


def test_images_in_arrow_files_are_known_again(tmp_path):
    """As `save_to_disk` writes them (the Hub's EditReward-Bench is such a folder), as a cache of `datasets`, as an IPC file."""
    from datasets import Dataset, concatenate_datasets
    from pyarrow import feather

    rows = concatenate_datasets([image_table(1, 2, 3), image_table(4, 5)])
    rows.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    assert {file.name for file in (tmp_path / "saved").iterdir()} == {
        *("data-00000-of-00002.arrow", "data-00001-of-00002.arrow", "state.json", "dataset_info.json"),
    }
    image_table(6, 7).to_parquet(str(tmp_path / "rows.parquet"))
    Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    (tmp_path / "ipc").mkdir()
    table = image_table(8, 9).data.table
    feather.write_feather(table, str(tmp_path / "ipc" / "rows.arrow"), compression="uncompressed")
    assert known(read(tmp_path / "saved"), range(11)) == [1, 2, 3, 4, 5]
    assert known(read(*(tmp_path / "cache").rglob("parquet-train.arrow")), range(11)) == [6, 7]
    assert known(read(tmp_path / "ipc", tmp_path / "rows.parquet"), range(11)) == [6, 7, 8, 9]
    (tmp_path / "saved" / "data-00000-of-00002.arrow").unlink()
    with pytest.raises(UserError, match=r"saved: data-00000-of-00002.arrow is missing \(1 of 2 are there\): download"):
        read(tmp_path / "saved")


def test_images_in_tables_of_every_form_are_known_again(tmp_path):
    """As bytes alone, as base64, in structures, and as the names of files outside the folder."""
    import pyarrow
    from pyarrow import parquet

    encoded = [encode(noise(seed), "png") for seed in range(5)]
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "4.png").write_bytes(encoded[4])
    row = {
        "plain": encoded[0],
        "uri": "data:image/png;base64," + base64.b64encode(encoded[1]).decode(),
        "pair": {"first": {"bytes": encoded[2], "path": "2.png"}, "others": [encoded[3]]},
        "named": {"bytes": None, "path": "../files/4.png"},
        "none": {"bytes": None, "path": None},
        "embedding": b"\0\1\2",
        "text": "a data:image in words",
    }
    (tmp_path / "bench").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "bench" / "rows.parquet")
    assert known(read(tmp_path / "bench"), range(6)) == [0, 1, 2, 3, 4]
    (tmp_path / "files" / "4.png").unlink()
    with pytest.raises(UserError, match=r"bench: .*4\.png: No such file"):
        read(tmp_path / "bench")


@pytest.mark.parametrize("name", ["0.gif", "0.BMP", "0.tif", "0.tiff", "0.webp", "0.JPG", "0.jfif", "0.image", "blob"])
def test_images_of_every_format_are_known_again(tmp_path, name):
    formats = {".gif": "GIF", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP"}
    kind = formats.get((tmp_path / name).suffix.lower(), "JPEG" if "j" in name.lower() else "PNG")
    noise(0).save(tmp_path / name, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert overlap(read(tmp_path), noise(0)) == ("perceptual" if kind in ("JPEG", "GIF") else "exact")


def test_the_exact_hash_knows_the_shape():
    from data.hashes import perceptual_hash, pixel_hash

    wide, high = noise(0, (64, 16)), noise(0, (16, 64))
    assert pixel_hash(wide) == pixel_hash(wide.copy())
    turned = high.copy()
    turned.frombytes(wide.tobytes())
    assert turned.tobytes() == wide.tobytes() and pixel_hash(turned) != pixel_hash(wide)
    assert 0 <= perceptual_hash(wide) < 2**64


def test_a_look_alike_may_differ_in_just_the_distance():
    from data.hashes import Benchmark, perceptual_hash, pixel_hash

    image = noise(0)
    for bits, expected in ((3, "perceptual"), (4, "perceptual"), (5, None)):
        other = perceptual_hash(image) ^ ((1 << bits) - 1)
        benchmark = Benchmark(frozenset(), np.array([other], dtype=np.uint64), distance=4)
        assert benchmark.overlap(image, pixel_hash(image)) == expected


def test_benchmarks_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match="no images"):
        read(tmp_path)
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        read(tmp_path / "nowhere")
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="benchmarks: "):
        read(tmp_path)
    assert read() is None


@pytest.mark.parametrize(
    "name",
    [
        "rows.jsonl",
        "rows.json",
        "rows.csv",
        "images.tar",
        "images.tar.gz",
        "images.zip",
        "0.avif",
        "images.bin",
        "rows",
    ],
)
def test_data_that_is_not_read_is_an_error(tmp_path, name, capsys):
    """One image beside it would else pass for the benchmark."""
    noise(0).save(tmp_path / "logo.png")
    for text in ("README.md", "LICENSE", "read.py", "state.json", ".gitattributes", "paper.pdf"):
        (tmp_path / text).write_bytes(b"\0" if text == "paper.pdf" else b"what it is")
    assert len(read(tmp_path).exact) == 1
    assert f"{tmp_path}: no images in .gitattributes, LICENSE, README.md and 3 more" in capsys.readouterr().out
    (tmp_path / name).write_bytes(b"\0" * 99)
    with pytest.raises(UserError, match=rf"{tmp_path}: {name} cannot be read, and may hold images"):
        read(tmp_path)


def test_a_table_without_images_is_named(tmp_path, capsys):
    from datasets import Dataset

    Dataset.from_dict({"image": ["a.png"]}).to_parquet(str(tmp_path / "rows.parquet"))
    with pytest.raises(UserError, match="no images in it"):
        read(tmp_path)
    noise(0).save(tmp_path / "a.png")
    assert len(read(tmp_path).exact) == 1 and "no images in rows.parquet" in capsys.readouterr().out
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"rows.parquet"):
        read(tmp_path)


def test_links_that_lead_nowhere_are_named_or_passed_over(tmp_path):
    noise(0).save(tmp_path / "0.png")
    for name in ("notes.txt", "folder", "gone"):
        (tmp_path / name).symlink_to(tmp_path / "nowhere" / name)
    assert len(read(tmp_path).exact) == 1
    for name in ("1.png", "rows.parquet", "rows.jsonl"):
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
        with pytest.raises(UserError, match=name):
            read(tmp_path)
        (tmp_path / name).unlink()
