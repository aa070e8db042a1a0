"""The benchmark loaders on the public files: every sample, every candidate, the order as it is known."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from evaluation.benchmarks.samples import read_samples
from tests.data.conftest import data_recipe, prepared
from tests.public_shapes.__main__ import write_raw
from tests.public_shapes.benchmarks import SEED, write_editreward_bench
from tests.public_shapes.conftest import ROWS
from tests.public_shapes.draw import SMALL, draw_edits
from tests.public_shapes.training import write_spatialreward_train

SAMPLES = ROWS // 6


@pytest.mark.parametrize(
    ("name", "folder", "sizes"),
    [
        ("merbench", "MER-Bench", {2: SAMPLES, 3: SAMPLES, 4: SAMPLES}),
        ("editreward-bench", "EditReward-Bench", {2: 3 * SAMPLES}),
        ("tiger-editreward-bench", "TIGER-EditReward-Bench", {2: SAMPLES, 3: SAMPLES, 4: SAMPLES}),
        ("mmrb2", "MMRB2", {2: SAMPLES}),
    ],
)
def test_every_sample_is_read(raw, name, folder, sizes):
    samples = read_samples(name, str(raw / folder))
    assert Counter(len(sample.candidates) for sample in samples) == sizes
    assert len({sample.id for sample in samples}) == len(samples)
    for sample in samples:
        images = [*sample.sources(), *(edit.image() for edit in sample.candidates)]
        assert all(image.startswith(b"\xff\xd8") for image in images)
        ranks = [edit.rank for edit in sample.candidates]
        assert (min(ranks) == 0 and sorted(ranks) == sorted(range(len(ranks)))) or set(ranks) == {0}


HUB = {
    "merbench": ("SpatialReward/MER-Bench", "MER-Bench"),
    "editreward-bench": ("EditScore/EditReward-Bench", "EditReward-Bench"),
    "tiger-editreward-bench": ("TIGER-Lab/EditReward-Bench", "TIGER-EditReward-Bench"),
    "mmrb2": ("rl-research/multimodal-rewardbench-2", "MMRB2"),
}


@pytest.mark.parametrize("name", HUB)
def test_the_hub_is_read_by_its_names_configs_and_splits(raw, name, tmp_path, monkeypatch):
    """`datasets` takes a folder of the repository's name in the working directory for the repository."""
    repository, folder = HUB[name]
    shutil.copytree(raw / folder, tmp_path / repository)
    (tmp_path / repository / "state.json").unlink(
        missing_ok=True
    )  # of a local folder alone it would want `load_from_disk`
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    from_hub, local = read_samples(name, None), read_samples(name, str(raw / folder))
    assert [sample.id for sample in from_hub] == [sample.id for sample in local]
    assert [sample.candidates[0].image() for sample in from_hub] == [sample.candidates[0].image() for sample in local]


def test_editreward_bench_has_its_three_dimensions_and_task_types(raw):
    samples = read_samples("editreward-bench", str(raw / "EditReward-Bench"))
    assert Counter(sample.dimension for sample in samples) == dict.fromkeys(
        ("prompt_following", "consistency", "overall"), SAMPLES
    )
    assert len({sample.category for sample in samples}) == SAMPLES


def test_one_mmrb2_pair_in_five_has_two_source_images(raw):
    samples = read_samples("mmrb2", str(raw / "MMRB2"))
    assert Counter(sample.source_count for sample in samples) == {1: SAMPLES - SAMPLES // 5, 2: SAMPLES // 5}
    assert not any("<image" in sample.instruction for sample in samples)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_seed_gives_the_same_files(tmp_path):
    for name in ("one", "other"):
        write_raw(tmp_path / name, 6, size=SMALL)
    one, other = contents(tmp_path / "one"), contents(tmp_path / "other")
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


def test_rows_with_images_of_the_arrow_benchmark_are_left_out_and_others_kept(tmp_path):
    write_editreward_bench(tmp_path / "bench", 12, size=SMALL)
    write_spatialreward_train(
        tmp_path / "train", 40, seed=SEED + 10, size=SMALL
    )  # the benchmark's groups, and later ones
    known = {
        image
        for sample in read_samples("editreward-bench", str(tmp_path / "bench"))
        for image in [*sample.sources(), *(edit.image() for edit in sample.candidates)]
    }
    sft = {"name": "sft", "layout": "spatialreward", "path": str(tmp_path / "train" / "sft" / "data.jsonl")}
    sft |= {"images": str(tmp_path / "train" / "sft" / "images_part_"), "splits": {"train": 1}}
    _, report = prepared(data_recipe(tmp_path, [sft], prompt_from="sft", benchmarks=[str(tmp_path / "bench")]))
    edits = list(draw_edits(SEED + 10, 0, 40, SMALL))
    exact = sum((group.source in known) + (edit.jpeg in known) for group, edit in edits)
    assert report["sources"]["sft"]["dropped"] == {"benchmark_overlap": sum(report["benchmark_overlap"].values())}
    # An `sc` row is known by its source or its edit, a `pq` row by its edit; unknown edits of a known source look like it.
    assert report["benchmark_overlap"]["exact"] >= exact > 20
    strangers = [group for group, _ in edits if group.source not in known]
    assert len(strangers) > 10 and report["sources"]["sft"]["kept"] >= 2 * len(strangers)
