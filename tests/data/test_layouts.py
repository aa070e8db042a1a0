"""Every public layout through its reader, from real files: folders, tar parts, one JSON array, Parquet; and back again."""

import json
import tarfile
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Value, load_dataset

from data.readers.parts import Slice, index
from data.recipe import Source
from data.rows import load_rows
from data.sources import LAYOUTS
from data.writers import write
from spatial_edit_reward import load_spec
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.images import read_picture
from tests.data.broken_rows import PQ, SC, row
from tests.data.conftest import noise, write_lines

ANSWER = {key: SC[key] for key in ("reasoning", "score")}


def read(layout: str, path: Path | str, **options):
    source = Source(name="s", layout=layout, path=str(path), splits={"train": 1}, **options)
    return list(LAYOUTS[layout](source))


def test_spatialreward_as_lines_and_as_an_array(tmp_path, images):
    rows = [row(SC, id="7", solution="sc"), row(PQ, images="b.png", solution="pq")]
    (tmp_path / "data.json").write_text(json.dumps(rows, indent=1))
    lines = read("spatialreward", write_lines(tmp_path / "data.jsonl", rows), images=images)
    array = read("spatialreward", tmp_path / "data.json", images=images)
    assert [raw.id for raw in lines] == ["7", "1"] and lines[0].images == (images / "a.png", images / "b.png")
    assert [raw.place for raw in lines] == [f"{tmp_path}/data.jsonl:1", f"{tmp_path}/data.jsonl:2"]
    assert [raw.place for raw in array] == [f"{tmp_path}/data.json[0]", f"{tmp_path}/data.json[1]"]
    for one, other in zip(lines, array, strict=True):
        assert (one.id, one.images, one.task, one.verdict) == (other.id, other.images, other.task, other.verdict)
    assert lines[0].prompt == "Judge this edit: Make the cup blue." and lines[0].regions_known


def test_images_beside_the_file_by_default(tmp_path):
    (raw,) = read("spatialreward", write_lines(tmp_path / "data.jsonl", [row(SC)]))
    assert raw.images == (tmp_path / "a.png", tmp_path / "b.png")


def test_an_array_that_breaks_off_is_named(tmp_path):
    (tmp_path / "data.json").write_text(json.dumps([row(SC), row(SC)])[:-30])
    with pytest.raises(UserError, match=r"data.json: the JSON array breaks off after row 0"):
        read("spatialreward", tmp_path / "data.json")
    with pytest.raises(UserError, match=r"gone.json: no such file"):
        read("spatialreward", tmp_path / "gone.json")


def test_images_straight_from_tar_parts(tmp_path, images):
    with tarfile.open(tmp_path / "whole.tar", "w") as archive:
        for name in ("a.png", "b.png"):
            archive.add(images / name, f"./images/{name}")
    content = (tmp_path / "whole.tar").read_bytes()
    cut = len(content) // 3  # in the middle of an image
    parts = [tmp_path / f"images_part_a{letter}" for letter in "abc"]
    for number, part in enumerate(parts):
        part.write_bytes(content[number * cut :] if number == 2 else content[number * cut : (number + 1) * cut])
    names = ("images/a.png", "images/b.png")
    file = write_lines(tmp_path / "data.jsonl", [row(SC, images=names), row(SC, images=("images/a.png", "gone.png"))])
    first, second = read("spatialreward", file, images=tmp_path / "images_part_")
    for found, name in zip(first.images, ("a.png", "b.png"), strict=True):
        assert isinstance(found, Slice) and found.read() == (images / name).read_bytes()
    assert second.fault is not None and second.fault.kind == "image_missing"
    with pytest.raises(UserError, match="no whole tar archive"):
        index(tuple(parts[:2]))
    with pytest.raises(UserError, match=r"source 's': images: .*no such folder"):
        read("spatialreward", file, images=tmp_path / "images_prat_")


def test_editscore_has_no_regions(tmp_path, images):
    rows = [
        {
            "images": ["a.png", "b.png"],
            "conversations": [
                {"from": "human", "value": "<image><image>Rate it: Add a cup."},
                {"from": "gpt", "value": json.dumps(ANSWER)},
            ],
        }
    ]
    (tmp_path / "reward.json").write_text(json.dumps(rows))
    (raw,) = read("editscore", tmp_path / "reward.json", images=images)
    assert not raw.regions_known and raw.prompt == "Rate it: Add a cup."
    (spatial,) = read("spatialreward", tmp_path / "reward.json", images=images)
    assert spatial.regions_known
    (generic,) = read("sharegpt", tmp_path / "reward.json", images=images)
    assert not generic.regions_known
    (boxed,) = read("sharegpt", write_lines(tmp_path / "boxed.jsonl", [row(SC)]), images=images)
    assert boxed.regions_known


def human_rows(folder: Path) -> Path:
    """EditReward-Data's columns, two rows, as a Parquet file."""
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


def test_editreward_gives_four_rows_of_scores(tmp_path):
    raws = read("editreward", human_rows(tmp_path), score_range=(1, 4))
    assert [raw.id for raw in raws[:4]] == ["0-left-sc", "0-left-pq", "0-right-sc", "0-right-pq"]
    assert [raw.score for raw in raws[:4]] == [(4.0, 4.0), (2.5, 2.5), (1.0, 1.0), (4.0, 4.0)]
    assert [len(raw.images) for raw in raws[:4]] == [2, 1, 2, 1] and raws[0].images[0] == raws[2].images[0]
    assert isinstance(raws[0].images[0], bytes) and all(raw.verdict is None for raw in raws)
    assert raws[7].fault is not None and "right_quality_aesthetic_score" in raws[7].fault.detail


def test_datasets_by_a_column_map(tmp_path):
    file = human_rows(tmp_path)
    columns = {
        "images": ["source_img", "left_output_image"],
        "instruction": "instruction",
        "score": ["left_instruction_following_score", "left_quality_aesthetic_score"],
        "id": "vote_type",
    }
    raws = read("datasets", file, columns=columns)
    assert [raw.id for raw in raws] == ["left", "left"] and raws[0].score == (4.0, 2.5)
    assert read_picture(raws[0].images[0])[0].tobytes() == noise(0).tobytes()
    (first, _) = read("datasets", file, columns={"images": "source_img", "verdict": "gone"})
    assert first.fault is not None and "no column 'gone'; there are instruction" in first.fault.detail


def test_a_dataset_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"source 's': .*nowhere"):
        read("datasets", tmp_path / "nowhere", columns={"images": "image"})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layout": "datasets"}, "needs `columns`"),
        ({"layout": "sharegpt", "columns": {"images": "image"}}, "needs `columns`"),
        ({"layout": "sharegpt", "score_range": (4, 1)}, "must rise"),
        ({"layout": "sharegpt", "splits": {}}, "splits"),
        ({"layout": "sharegpt", "splits": {"test": 1}}, "splits"),
    ],
)
def test_a_source_that_cannot_be(changes, said):
    with pytest.raises(ValueError, match=said):
        Source(**{"name": "s", "path": "x", "splits": {"train": 1}, **changes})


@pytest.mark.parametrize("format_", ["llamafactory", "ms-swift"])
def test_written_rows_come_back(small_data, tmp_path, format_):
    spec = load_spec(small_data)
    rows = load_rows(small_data / "validation.parquet", spec)
    count = write(small_data / "validation.parquet", spec, format_, tmp_path / "out")
    assert count == len(rows) == 8
    raws = read("sharegpt", tmp_path / "out" / "data.jsonl")
    assert [raw.id for raw in raws] == rows["id"]
    for raw, its in zip(raws, rows, strict=True):
        assert (raw.task, raw.instruction, raw.group) == (its["task"], its["instruction"], its["group"])
        assert raw.prompt == spec.prompt(its["task"], its["instruction"])
        assert [read_picture(image)[0].tobytes() for image in raw.images] == [
            image.tobytes() for image in its["images"]
        ]
        assert json.loads(raw.verdict)["score"] == its["reference"]["score"]
    if format_ == "llamafactory":
        info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())["spatial_edit_reward"]
        loaded = load_dataset("json", data_files=str(tmp_path / "out" / info["file_name"]), split="train")
        assert set(info["columns"].values()) <= set(loaded.column_names)
        turns = loaded[0][info["columns"]["messages"]]
        assert [turn["from"] for turn in turns] == ["human", "gpt"]
        assert turns[0]["value"].count("<image>") == len(loaded[0][info["columns"]["images"]])
