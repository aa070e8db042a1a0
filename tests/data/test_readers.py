"""Every public layout through its reader, from real files: folders, tar parts, one JSON array, Parquet."""

import base64
import json
import tarfile
import textwrap
from pathlib import Path

import pytest

from data.readers import READERS
from data.readers.parts import Slice, find_parts, index_tar
from data.recipe import DataRecipe, Source
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.images import read_image
from tests.data.broken_rows import PQ, SC, row
from tests.data.conftest import human_rows, noise, write_lines

ANSWER = {key: SC[key] for key in ("reasoning", "score")}


def read(layout: str, path: Path | str, **options):
    source = Source(name="s", layout=layout, path=str(path), splits={"train": 1}, **options)
    return list(READERS[layout].rows(source))


def test_spatialreward_as_lines_and_as_an_array(tmp_path, images):
    rows = [row(SC, id="7", solution="sc"), row(PQ, images="b.png", solution="pq")]
    (tmp_path / "data.json").write_text(json.dumps(rows, indent=1))
    lines = read("spatialreward", write_lines(tmp_path / "data.jsonl", rows), images=images)
    array = read("spatialreward", tmp_path / "data.json", images=images)
    assert [raw.id for raw in lines] == ["7", "1"] and lines[0].images == (images / "a.png", images / "b.png")
    assert [raw.location for raw in lines] == [f"{tmp_path}/data.jsonl, line 1", f"{tmp_path}/data.jsonl, line 2"]
    assert [raw.location for raw in array] == [f"{tmp_path}/data.json, row 1", f"{tmp_path}/data.json, row 2"]
    for one, other in zip(lines, array, strict=True):
        assert (one.id, one.images, one.task, one.verdict) == (other.id, other.images, other.task, other.verdict)
    assert lines[0].prompt == "Judge this edit: Make the cup blue." and lines[0].regions_known


def test_placeholders_of_rows_exported_after_the_chat_template_are_removed(tmp_path, images):
    exported = "<|vision_start|><|image_pad|><|vision_end|>" * 2 + "Judge this edit: Make the cup blue."
    turns = [{"role": "user", "content": exported}, {"role": "assistant", "content": json.dumps(SC)}]
    [raw] = read("sharegpt", write_lines(tmp_path / "rows.jsonl", [row(SC, messages=turns)]), images=images)
    assert raw.prompt == "Judge this edit: Make the cup blue."


def test_images_beside_the_file_by_default(tmp_path):
    (raw,) = read("spatialreward", write_lines(tmp_path / "data.jsonl", [row(SC)]))
    assert raw.images == (tmp_path / "a.png", tmp_path / "b.png")


def test_an_array_that_breaks_off_is_named(tmp_path):
    (tmp_path / "data.json").write_text(json.dumps([row(SC), row(SC)])[:-30])
    with pytest.raises(UserError, match=r"data.json: the JSON array breaks off after row 1"):
        read("spatialreward", tmp_path / "data.json")
    with pytest.raises(UserError, match=r"gone.json: no such file"):
        read("spatialreward", tmp_path / "gone.json")


def test_images_straight_from_tar_parts(tmp_path, images):
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        for name in ("a.png", "b.png"):
            archive.add(images / name, f"./images/{name}")
    content = (tmp_path / "images.tar").read_bytes()
    cut = len(content) // 3  # in the middle of an image
    parts = [tmp_path / f"images_part_a{letter}" for letter in "abc"]
    for number, part in enumerate(parts):
        part.write_bytes(content[number * cut :] if number == 2 else content[number * cut : (number + 1) * cut])
    names = ("images/a.png", "images/b.png")
    file = write_lines(tmp_path / "data.jsonl", [row(SC, images=names), row(SC, images=("images/a.png", "gone.png"))])
    first, second = read("spatialreward", file, images=tmp_path / "images_part_")
    for image, name in zip(first.images, ("a.png", "b.png"), strict=True):
        assert isinstance(image, Slice) and image.read() == (images / name).read_bytes()
    assert second.error is not None and second.error.kind == "image_missing"
    for cut_off in (parts[:2], parts[:1]):
        with pytest.raises(UserError, match="no complete tar archive"):
            index_tar(tuple(cut_off))
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


def test_editreward_gives_four_rows_of_scores(tmp_path):
    raws = read("editreward", human_rows(tmp_path), score_range=(1, 4))
    assert [raw.id for raw in raws[:4]] == ["0-left-sc", "0-left-pq", "0-right-sc", "0-right-pq"]
    assert [raw.score for raw in raws[:4]] == [(4.0, 4.0), (2.5, 2.5), (1.0, 1.0), (4.0, 4.0)]
    assert [len(raw.images) for raw in raws[:4]] == [2, 1, 2, 1] and raws[0].images[0] == raws[2].images[0]
    assert isinstance(raws[0].images[0], bytes) and all(raw.verdict is None for raw in raws)
    assert raws[7].error is not None and "right_quality_aesthetic_score" in raws[7].error.detail


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
    assert read_image(raws[0].images[0])[0].tobytes() == noise(0).tobytes()
    (first, _) = read("datasets", file, columns={"images": "source_img", "verdict": "gone"})
    assert first.error is not None and "no column 'gone'; there are instruction" in first.error.detail


def test_a_dataset_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"source 's': .*nowhere"):
        read("datasets", tmp_path / "nowhere", columns={"images": "image"})


def test_a_dataset_without_one_of_its_shards_is_named(tmp_path):
    human_rows(tmp_path).rename(tmp_path / "train-00000-of-00002.parquet")
    for layout, options in (("editreward", {}), ("datasets", {"columns": {"images": "source_img"}})):
        with pytest.raises(UserError, match=r"train-00001-of-00002\.parquet is missing \(1 of 2 are there\)"):
            read(layout, tmp_path, **options)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_one_odd_row_of_a_json_dataset_leaves_the_others(tmp_path, suffix):
    """`datasets` reads a table: it stops at a broken line, and at a row whose keys hold other things."""
    good = {"image": "a.png", "score": 3}
    rows = [good, {"image": 7, "score": "three"}, {"image": ["a.png", "b.png"], "more": {"a": 1}}, 17, None, good]
    if suffix == "jsonl":
        rows.insert(3, '{"image": "b.png')
        file = write_lines(tmp_path / "rows.jsonl", rows)
    else:
        file = tmp_path / "rows.json"
        file.write_text(json.dumps(rows))
    raws = read("datasets", file, columns={"images": "image"})
    assert len(raws) == len(rows) and [raw.error for raw in (raws[0], raws[2], raws[-1])] == [None] * 3
    assert {raw.error.kind for raw in raws if raw.error} <= {"not_json", "not_a_row"}
    assert [raw.error is None for raw in raws].count(True) == 3
    fours = read("editreward", file)
    assert all(raw.error is not None for raw in fours) and fours[-1].id == f"{len(rows) - 1}-right-pq"


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_damaged_file_of_a_dataset_is_one_line(tmp_path, suffix):
    file = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        content = human_rows(tmp_path).read_bytes()
        file.write_bytes(content[:4] + b"\xff" * 2000 + content[2004:])
    else:
        file.write_text('image,text\na.png,"it never ends\n' + "b.png,x\n" * 9)
    with pytest.raises(UserError, match=rf"source 's': .*rows\.{suffix}"):
        read("datasets", file, columns={"images": "source_img" if suffix == "parquet" else "image"})


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"layout": "datasets"}, "needs `columns`"),
        ({"layout": "sharegpt", "columns": {"images": "image"}}, "needs `columns`"),
        ({"layout": "sharegpt", "score_range": (4, 1)}, "must rise"),
        ({"layout": "sharegpt", "splits": {}}, "splits"),
        ({"layout": "sharegpt", "splits": {"test": 1}}, "splits"),
        ({"layout": "sharegtp"}, "not one of spatialreward, editscore, editreward, sharegpt, datasets"),
    ],
)
def test_a_source_that_cannot_be(changes, error):
    with pytest.raises(ValueError, match=error):
        Source(**{"name": "s", "path": "x", "splits": {"train": 1}, **changes})


@pytest.mark.parametrize("layout", ["datasets", "editreward", "spatialreward"])
@pytest.mark.parametrize("outside", ["../secret.png", "{folder}/secret.png"])
def test_a_path_that_leaves_the_image_folder_is_refused(tmp_path, layout, outside):
    noise(0).save(tmp_path / "secret.png")
    (tmp_path / "set").mkdir()
    noise(1).save(tmp_path / "set" / "a.png")
    outside = outside.format(folder=tmp_path)
    scores = {
        f"{side}_{name}_score": 3
        for side in ("left", "right")
        for name in ("instruction_following", "quality_aesthetic")
    }
    public_row = {"source_img": "a.png", "left_output_image": outside, "right_output_image": "a.png", **scores}
    options = {}
    if layout == "datasets":
        options = {"columns": {"images": ["source_img", "left_output_image"]}}
    if layout == "spatialreward":
        public_row = row(SC, images=("a.png", outside))
    raws = read(layout, write_lines(tmp_path / "set" / "rows.jsonl", [public_row]), **options)
    assert raws[0].error is not None and raws[0].error.kind == "image_outside"
    assert [raw.error for raw in raws[2:]] == [None] * len(raws[2:])  # the right edit is inside


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "image", "image": "a.png"}, {"type": "image", "image": "b.png"}, {"type": "text", "text": "Judge."}],
        [{"type": "image", "path": "a.png"}, {"type": "text", "text": "Judge."}, {"type": "image", "url": "b.png"}],
        [{"type": "image_url", "image_url": {"url": name}} for name in ("a.png", "file://./b.png")],
        [{"type": "image_url", "image_url": name} for name in ("./a.png", "sub/../b.png")],
    ],
)
def test_images_in_messages_are_read(tmp_path, content):
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": json.dumps(SC)}]
    for more in ({}, {"images": []}, {"images": None}):
        file = write_lines(tmp_path / "rows.jsonl", [{"messages": messages, **more}])
        (raw,) = read("sharegpt", file)
        assert raw.images == (tmp_path / "a.png", tmp_path / "b.png")
    (raw,) = read("sharegpt", write_lines(file, [row(SC, messages=messages, images=("c.png", "d.png"))]))
    assert raw.images == (tmp_path / "c.png", tmp_path / "d.png")


def test_images_in_base64_are_read(tmp_path, images):
    content = (images / "a.png").read_bytes()
    text = base64.b64encode(content).decode()
    uri = f"data:image/png;base64,{text}"
    rows = [
        row(SC, images=(uri, text)),
        row(SC, images=("a.png", "data:image/png;base64,no")),
        row(SC, images=("/9j/a.b", "x")),
    ]
    both, broken, path = read("sharegpt", write_lines(tmp_path / "rows.jsonl", rows))
    assert both.images == (content, content)
    assert broken.error.kind == "bad_image" and path.error.kind == "image_outside"


@pytest.mark.parametrize(
    ("entry", "detail"),
    [
        ("https://example.org/a.png", "addresses are not fetched: download https://example.org/a.png"),
        ({"source_img": "a.png"}, "an object of source_img, without bytes or path"),
        ({"path": None}, "given as NoneType"),
        (["a.png"], "given as list"),
        (None, "given as NoneType"),
        (True, "given as bool"),
    ],
)
def test_what_is_no_path_of_an_image_is_named(tmp_path, entry, detail):
    (raw,) = read("sharegpt", write_lines(tmp_path / "rows.jsonl", [row(SC, images=("a.png", entry))]))
    assert raw.error is not None and detail in raw.error.detail


@pytest.mark.parametrize("placeholder", ["<bbox>", "<ref-object>"])
def test_placeholders_of_ms_swift_are_named(tmp_path, placeholder):
    answer = json.dumps(SC).replace("[10, 20, 300, 400]", placeholder)
    file = write_lines(tmp_path / "rows.jsonl", [row(answer, objects={"ref": ["cup"], "bbox": [[1, 2, 3, 4]]})])
    (raw,) = read("sharegpt", file)
    assert raw.error is not None and placeholder in raw.error.detail and "ms-swift" in raw.error.detail


def test_parts_are_joined_without_a_gap(tmp_path):
    def parts(*names):
        for file in tmp_path.iterdir():
            file.unlink()
        for name in names:
            (tmp_path / name).write_bytes(b"x")
        return [part.name for part in find_parts(tmp_path / "images_part_")]

    for names in (
        ("images_part_aa", "images_part_ab", "images_part_ac"),
        ("images_part_ay", "images_part_az", "images_part_ba"),
        ("images_part_.009", "images_part_.010"),
        ("images_part_00001-of-00002", "images_part_00002-of-00002"),
        ("images_part_aa",),
        (),
    ):
        assert parts(*names) == list(names)
    for names in (
        ("images_part_aa", "images_part_ac"),
        ("images_part_aa", "images_part_ba"),
        ("images_part_.010", "images_part_.020"),
        ("images_part_aa", "images_part_aa.md5", "images_part_ab"),
        ("images_part_9", "images_part_10"),
    ):
        with pytest.raises(UserError, match=r"images_part_.* does not follow images_part_"):
            parts(*names)


def test_a_tar_that_ends_between_two_images_is_no_complete_one(tmp_path, images):
    with tarfile.open(tmp_path / "images.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("a.png", "b.png"):
            archive.add(images / name, name)
    content = (tmp_path / "images.tar").read_bytes()
    end = content.index(b"b.png")
    for name, cut in (
        ("between.tar", content[:end]),
        ("foreign.tar", content[:end] + b"another archive's bytes" * 999),
    ):
        (tmp_path / name).write_bytes(cut)
        with pytest.raises(UserError, match=r"no complete tar archive: it breaks off after a\.png"):
            index_tar((tmp_path / name,))


@pytest.mark.parametrize("layout", READERS)
def test_every_layout_is_a_choice_of_the_recipe(layout):
    options = {"columns": {"images": "image"}} if hasattr(READERS[layout], "TAKES_COLUMNS") else {}
    assert Source(name="s", layout=layout, path="x", splits={"train": 1}, **options).layout == layout


def test_what_a_reader_states_is_used(tmp_path):
    """A source with neither prompts nor words: no template is looked for in it, and it is not usable for SFT."""
    from data.sources import find_templates, open_sources

    file = human_rows(tmp_path)
    sources = [
        Source(name="people", layout="editreward", path=str(file), splits={"rl": 1}),
        Source(name="spatial", layout="spatialreward", path=str(tmp_path / "rows.jsonl"), splits={"train": 1}),
    ]
    prompts = [f"Judge this edit: Add {noun}." for noun in ("a cup", "two lamps", "a dog")]
    write_lines(
        tmp_path / "rows.jsonl", [row(SC, instruction=..., messages=[{"role": "user", "content": p}]) for p in prompts]
    )
    recipe = DataRecipe(
        output_dir=tmp_path, sources=sources, pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=320
    )
    assert [source.usable_for_sft for source in open_sources(recipe)] == [False, True]
    assert list(find_templates(recipe.sources)) == [("spatial", "sc")]
    assert len(list(READERS["editreward"].rows(sources[0]))) == 8


def test_the_reader_of_the_docstring_reads_its_row(tmp_path):
    """Its code is run as it stands in `data.readers.raw`."""
    from data.readers import raw
    from data.readers.json_rows import read_json

    start, end = raw.__doc__.index("    HAS_PROMPTS"), raw.__doc__.index("Of the row")
    reader = vars(raw) | {"Source": Source, "read_json": read_json}
    exec(textwrap.dedent(raw.__doc__[start:end]), reader)
    good = {"before": "a.png", "after": "b.png", "instruction": "Add a cup.", "stars": 4}
    file = write_lines(tmp_path / "rows.jsonl", [good, {"before": "a.png"}, 17, {**good, "after": "../c.png"}])
    source = Source(name="s", layout="sharegpt", path=str(file), splits={"rl": 1})
    first, *others = reader["rows"](source)
    assert first == raw.Raw(
        images=(tmp_path / "a.png", tmp_path / "b.png"),
        task="sc",
        instruction="Add a cup.",
        score=(4, 4),
        regions_known=False,
        location=f"{file}, line 1",
        id="0",
    )
    assert [other.error.kind for other in others] == ["not_a_row", "not_a_row", "image_outside"]
    assert "after" in others[0].error.detail and [other.id for other in others] == ["1", "2", "3"]
