"""The pairs of pictures that the base is asked about: which kinds there are, and that their scenes are what they say."""

import numpy as np

from tools.tiny_base.model import SIDE
from tools.tiny_base.names import boxes_of
from tools.tiny_base.pairs import random_pair

PAIRS = [random_pair(np.random.default_rng([3, number]), SIDE) for number in range(300)]
REARRANGED = [pair for pair in PAIRS if pair.candidate.kind == "rearranged"]
EDITS = [pair for pair in PAIRS if pair.candidate.kind != "rearranged"]


def sizes(scene):
    return {item.name: item.box[2] - item.box[0] for item in scene.items}


def test_a_rearranged_pair_holds_the_same_things_elsewhere():
    assert 60 < len(REARRANGED) < 150
    elsewhere = []
    for source, request, candidate in REARRANGED:
        assert not request and not candidate.changes
        before, after = sizes(source), sizes(candidate.scene)
        assert after.items() <= before.items()
        boxes = boxes_of(source)
        elsewhere += [boxes[item.name] != item.box for item in candidate.scene.items]
    assert np.mean(elsewhere) > 0.95


def test_edits_hold_every_outcome_and_many_things_that_moved():
    assert {pair.candidate.kind for pair in EDITS} == {
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
        for pair in EDITS
    ]
    assert np.mean(moved) > 0.4
    assert all(pair.request for pair in EDITS)


def test_no_two_things_of_a_picture_share_a_name():
    for source, _, candidate in PAIRS:
        for scene in (source, candidate.scene):
            assert len(sizes(scene)) == len(scene.items)
