"""A benchmark's images are known again: the same pixels exactly, another codec or size by the eye, other images not."""

import numpy as np
import pytest

from spatial_edit_reward.errors import UserError
from spatial_edit_reward.images import fit
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


def test_images_in_arrow_files_are_known_again(tmp_path):
    """As `save_to_disk` writes them (the Hub's EditReward-Bench is such a folder), and as an IPC file."""
    from pyarrow import feather

    image_table(1, 2, 3).save_to_disk(str(tmp_path / "saved"))
    assert len(list((tmp_path / "saved").glob("*.arrow"))) == 1
    (tmp_path / "ipc").mkdir()
    feather.write_feather(
        image_table(4, 5).data.table, str(tmp_path / "ipc" / "rows.arrow"), compression="uncompressed"
    )
    benchmark = read(tmp_path / "saved", tmp_path / "ipc")
    assert [overlap(benchmark, noise(seed)) for seed in range(7)] == [None, *["exact"] * 5, None]


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
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="benchmarks: "):
        read(tmp_path)
    assert read() is None


@pytest.mark.parametrize("name", ["rows.jsonl", "images.tar.gz", "images.zip", "0.avif"])
def test_data_that_is_not_read_is_an_error(tmp_path, name):
    """One image beside it would else pass for the benchmark."""
    noise(0).save(tmp_path / "logo.png")
    (tmp_path / "README.md").write_text("what it is")
    (tmp_path / "state.json").write_text("{}")
    assert len(read(tmp_path).exact) == 1
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=rf"{name} cannot be read, and may hold images"):
        read(tmp_path)


def test_tables_without_images_are_an_error(tmp_path):
    from datasets import Dataset

    Dataset.from_dict({"image": ["a.png"]}).to_parquet(str(tmp_path / "rows.parquet"))
    with pytest.raises(UserError, match="hold no image"):
        read(tmp_path)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"rows.parquet"):
        read(tmp_path)
