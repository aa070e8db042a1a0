"""Synthetic rows: the same every time, true to their pixels, scored by the written rule, cited as `format` wants."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops

from data.rows import row_error
from data.synthetic.degrade import LOSS_PER_LEVEL, degrade, perceptual_scores
from data.synthetic.edits import CANDIDATES, OPERATIONS, make_candidate, random_request, regions
from data.synthetic.generate import CANDIDATES_PER_GROUP, background_files, group_rows, normalized
from data.synthetic.scene import draw_scene, plain_background, random_scene
from rewards_fn import box_iou, format, score_agreement
from spatial_edit_reward import Spec, UserError, render

SPEC = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=320)
SIDE = 64


def same(a, b):
    return a.size == b.size and ImageChops.difference(a, b).getbbox() is None


def made(seed, kind):
    """A scene, its request and its candidate of `kind`."""
    rng = np.random.default_rng(seed)
    while True:
        scene = random_scene(rng, plain_background(rng, SIDE))
        request = random_request(rng, scene, 2)
        candidate = request and make_candidate(rng, kind, scene, request)
        if candidate:
            return scene, request, candidate


def test_a_group_is_the_same_every_time_and_no_other():
    first, again, other = group_rows(3, 5, SIDE), group_rows(3, 5, SIDE), group_rows(3, 6, SIDE)
    for a, b in zip(first, again, strict=True):
        assert {k: v for k, v in a.items() if k != "images"} == {k: v for k, v in b.items() if k != "images"}
        assert all(same(x, y) for x, y in zip(a["images"], b["images"], strict=True))
    assert not same(first[0]["images"][0], other[0]["images"][0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_rows_are_canonical_and_their_reference_earns_everything(number):
    rows = group_rows(11, number, SIDE)
    assert len(rows) == 2 * CANDIDATES_PER_GROUP
    assert len({row["group"] for row in rows}) == 1 and len({row["id"] for row in rows}) == len(rows)
    columns = {
        "completions": [render(row["task"], row["reference"]) for row in rows],
        "reference": [row["reference"] for row in rows],
        "task": [row["task"] for row in rows],
    }
    assert [row_error(row, SPEC) for row in rows] == [None] * len(rows)
    assert set(format(**columns)) == {1.0} and set(score_agreement(**columns)) == {1.0}
    assert set(box_iou(**columns)) <= {1.0, None}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([kind for kind in CANDIDATES if kind != "background"]))
def test_every_changed_pixel_lies_in_a_region(seed, kind):
    scene, _, candidate = made(seed, kind)
    changed = np.asarray(ImageChops.difference(draw_scene(scene), draw_scene(candidate.scene))).any(axis=2)
    outside = changed.copy()
    for change in candidate.changes:
        for _, (x1, y1, x2, y2) in regions(change):
            assert changed[y1:y2, x1:x2].any()
            outside[y1:y2, x1:x2] = False
    assert not outside.any()
    assert changed.any() == (kind != "failed")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(CANDIDATES))
def test_scores_follow_the_rule(seed, kind):
    _, request, candidate = made(seed, kind)
    success, over_editing = candidate.scores()
    expected = {
        "done": (25, 25),
        "failed": (0, 25),
        "partial": (12, 25),
        "wrong_target": (12, 17),
        "collateral": (25, 17),
        "background": (25, 9),
    }
    assert (success, over_editing) == expected[kind]
    assert len(request) == 2


def test_every_operation_and_candidate_comes_up():
    kinds = {request.kind for seed in range(60) for request in made(seed, "done")[1]}
    assert kinds == set(OPERATIONS)
    lengths = {len(row["reference"]["edit_region"]) for n in range(60) for row in group_rows(1, n, SIDE)[::2]}
    assert {0, 1, 2, 3} <= lengths


@pytest.mark.parametrize("kind", LOSS_PER_LEVEL)
def test_damage_grows_with_its_level_and_lowers_both_scores(kind):
    image = group_rows(2, 2, SIDE)[0]["images"][0]

    def damage(level):
        hurt = degrade(image, kind, level, np.random.default_rng(0))
        assert hurt.size == image.size
        return float(np.abs(np.asarray(hurt, float) - np.asarray(image, float)).mean())

    assert damage(0) == 0
    assert 0 < damage(1) < damage(4)
    for worse, better in zip(perceptual_scores(kind, 4), perceptual_scores(kind, 1), strict=True):
        assert 0 <= worse < better < 25


def test_images_of_a_folder_become_backgrounds(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    rows = group_rows(0, 0, 96, background_files(tmp_path))
    assert rows[0]["images"][0].size == (96, 72)
    assert [row_error(row, SPEC) for row in rows] == [None] * len(rows)


def test_a_folder_without_backgrounds_is_named(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        background_files(tmp_path)


@given(st.tuples(st.integers(0, 63), st.integers(0, 63)), st.integers(1, 640), st.integers(1, 640))
def test_boxes_are_normalized_to_a_thousand(corner, width, height):
    x, y = min(corner[0], width), min(corner[1], height)
    box = normalized((x, y, width, height), (width, height))
    assert box[2:] == [1000, 1000]
    assert math.isclose(box[0], x / width * 1000, abs_tol=0.5) and math.isclose(box[1], y / height * 1000, abs_tol=0.5)
