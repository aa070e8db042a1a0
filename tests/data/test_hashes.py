"""Benchmark pictures are known again: the same pixels exactly, another codec or size by the eye, other pictures not."""

import pytest
from datasets import Dataset, Features, Image, List

from data.hashes import perceptual_hash, pixel_hash, read_benchmarks
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.images import fit
from spatial_edit_reward.spec import Pixels
from tests.data.conftest import noise

PIXELS = Pixels(min=256, max=4096, multiple=16)


def known(benchmark, picture):
    fitted = fit(picture, PIXELS)
    return benchmark.overlap(fitted, pixel_hash(fitted))


def test_pictures_in_folders_and_in_parquet_are_known_again(tmp_path):
    (tmp_path / "bench" / "deep").mkdir(parents=True)
    noise(0, (96, 96)).save(tmp_path / "bench" / "deep" / "0.png")
    rows = [{"source": noise(1), "edits": [noise(2), noise(3)]}]
    features = Features({"source": Image(), "edits": List(Image())})
    Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "bench" / "rows.parquet"))
    benchmark = read_benchmarks([tmp_path / "bench"], PIXELS, 4)
    assert len(benchmark.exact) == len(benchmark.perceptual) == 4
    for seed in range(4):
        assert known(benchmark, noise(seed, (96, 96) if seed == 0 else (64, 64))) == "exact"
        assert known(benchmark, noise(seed, (200, 200))) == "perceptual"
        noise(seed).save(tmp_path / "lossy.jpg", quality=70)
        with Image().decode_example({"path": str(tmp_path / "lossy.jpg"), "bytes": None}) as lossy:
            assert known(benchmark, lossy) == "perceptual"
    assert {known(benchmark, noise(seed)) for seed in range(4, 60)} == {None}


def test_the_exact_hash_knows_the_shape():
    wide, high = noise(0, (64, 16)), noise(0, (16, 64))
    assert pixel_hash(wide) == pixel_hash(wide.copy())
    turned = high.copy()
    turned.frombytes(wide.tobytes())
    assert turned.tobytes() == wide.tobytes() and pixel_hash(turned) != pixel_hash(wide)
    assert 0 <= perceptual_hash(wide) < 2**64


def test_benchmarks_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match="no pictures"):
        read_benchmarks([tmp_path], PIXELS, 4)
    (tmp_path / "0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="benchmarks: "):
        read_benchmarks([tmp_path], PIXELS, 4)
    assert read_benchmarks([], PIXELS, 4) is None
