"""The readers on the public datasets as they are published: every row, every image, every verdict."""

import json
from collections import Counter

import pytest

from data.readers import READERS
from data.recipe import Source
from spatial_edit_reward.boxes import valid_box
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.images import read_image
from tests.public_shapes.conftest import ROWS
from tests.public_shapes.draw import SMALL, draw_edits
from tests.public_shapes.training import write_spatialreward_train

OF_RL = 2 * (ROWS // 3 + ROWS // 6)


def rows_of(layout, path, images=None):
    source = Source(name="public", layout=layout, path=str(path), images=images, splits={"rl": 1})
    rows = list(READERS[layout].rows(source))
    assert [row.error for row in rows if row.error] == []
    return rows


def image_sizes(rows):
    contents = (image.read() if hasattr(image, "read") else image for row in rows for image in row.images)
    return Counter(read_image(content)[0].size for content in contents)


def test_spatialreward_rows_have_their_verdicts_and_images_from_thirteen_parts(raw):
    folder = raw / "SpatialReward-Train" / "sft"
    assert len(list(folder.glob("images_part_a?"))) == 13
    rows = rows_of("spatialreward", folder / "data.jsonl", folder / "images_part_")
    assert Counter(len(row.images) for row in rows) == {2: ROWS, 1: ROWS}
    edits = list(draw_edits(0, 0, ROWS, SMALL))
    for (group, edit), sc, pq in zip(edits, rows[::2], rows[1::2], strict=True):
        assert sc.prompt.endswith(f"Editing instruction: {group.instruction}") and group.instruction not in pq.prompt
        assert json.loads(sc.verdict) == {key: edit.sc[key] for key in ("edit_region", "reasoning", "score")}
        assert json.loads(pq.verdict) == {key: edit.pq[key] for key in ("reasoning", "score")}
        assert all(valid_box(region) for region in edit.sc["edit_region"])
    assert set(image_sizes(rows)) <= {SMALL, SMALL[::-1], (SMALL[0],) * 2} and image_sizes(rows).total() == 3 * ROWS


def test_spatialreward_rl_rows_have_no_answer_and_partly_the_images_of_sft(raw):
    folder = raw / "SpatialReward-Train"
    rows = rows_of("spatialreward", folder / "rl" / "data.json", folder / "rl" / "images.tar")
    assert Counter(row.task for row in rows) == {"sc": OF_RL // 2, "pq": OF_RL // 2}
    assert all(row.verdict is None and row.score is None and row.instruction for row in rows)
    sft = rows_of("spatialreward", folder / "sft" / "data.jsonl", folder / "sft" / "images_part_")
    known = {tuple(image.read() for image in row.images) for row in sft}
    assert sum(tuple(image.read() for image in row.images) in known for row in rows) == 2 * (ROWS // 3)


def test_editscore_images_come_from_the_pieces_of_one_tar_gz(raw):
    folder = raw / "EditScore-Reward-Data"
    assert (folder / "images_part_00").read_bytes()[:2] == b"\x1f\x8b" and (folder / "images_part_15").exists()
    rows = rows_of("editscore", folder / "reward.json", folder / "images_part_")
    assert Counter(len(row.images) for row in rows) == {2: ROWS, 1: ROWS}
    assert image_sizes(rows).total() == 3 * ROWS
    assert not any(row.regions_known or "bbox" in row.verdict for row in rows)
    assert all(0 <= score <= 25 for row in rows for score in json.loads(row.verdict)["score"])


def test_editreward_rows_become_four_each_with_scores_of_people(raw):
    rows = rows_of("editreward", raw / "EditReward-Data")
    assert Counter(row.task for row in rows) == {"sc": 2 * ROWS, "pq": 2 * ROWS}
    assert len({row.group for row in rows}) == ROWS
    assert {score for row in rows for score in row.score} <= {1, 2, 3, 4}
    assert image_sizes(rows).total() == 6 * ROWS


def test_a_part_that_was_not_downloaded_is_named(tmp_path):
    folder = tmp_path / "train"
    write_spatialreward_train(folder, 6, size=SMALL)
    (folder / "sft" / "images_part_ag").unlink()
    with pytest.raises(UserError, match="images_part_ah does not follow images_part_af"):
        rows_of("spatialreward", folder / "sft" / "data.jsonl", folder / "sft" / "images_part_")
