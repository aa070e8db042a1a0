"""The pairs of images that the base is asked about: which kinds there are, and that their scenes are what the kind promises."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def pairs():
    from tools.tiny_base.pairs import random_pair

    return [random_pair(np.random.default_rng([3, number]), 64) for number in range(300)]


def sizes(scene):
    return {item.name: item.box[2] - item.box[0] for item in scene.items}


def test_a_rearranged_pair_holds_the_same_items_elsewhere(pairs):
    from tools.tiny_base.names import boxes_of

    rearranged = [pair for pair in pairs if pair.candidate.kind == "rearranged"]
    assert 60 < len(rearranged) < 150
    elsewhere = []
    for source, request, candidate in rearranged:
        assert not request and not candidate.changes
        before, after = sizes(source), sizes(candidate.scene)
        assert after.items() <= before.items()
        boxes = boxes_of(source)
        elsewhere += [boxes[item.name] != item.box for item in candidate.scene.items]
    assert np.mean(elsewhere) > 0.95


def test_edits_hold_every_outcome_and_many_items_that_moved(pairs):
    edits = [pair for pair in pairs if pair.candidate.kind != "rearranged"]
    assert {pair.candidate.kind for pair in edits} == {
        "done",
        "failed",
        "partial",
        "wrong_target",
        "collateral",
        "background",
    }
    moved = [
        any(
            change.before and change.after and change.before.box != change.after.box
            for change in pair.candidate.changes
        )
        for pair in edits
    ]
    assert np.mean(moved) > 0.4
    assert all(pair.request for pair in edits)


def test_no_two_items_of_an_image_share_a_name(pairs):
    for source, _, candidate in pairs:
        for scene in (source, candidate.scene):
            assert len(sizes(scene)) == len(scene.items)
