"""The tiny base: what it is asked, where the read-outs are taken, and that its script builds a checkpoint that loads."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from tests.conftest import BASE, run_stage

SIDE = 64
QUOTED = re.compile(r'"(\w+(?: \w+)?)",?(?: which is)?(?: at)? (?:nowhere|(\d+), (\d+), (\d+), (\d+))')
MEANT_OR_NOT = re.compile(r"The (\w+(?: \w+)?) was (not )?meant")
ORDINAL = re.compile(r"in the (first|second) picture,")
REACH = re.compile(r"(\w+ \w+) (?:reaches )?from (\d+) (\d+) to (\d+) (\d+)")


@pytest.fixture(scope="module")
def talks():
    """200 conversations of the highest level."""
    from tools.tiny_base.grounding import TWO_IMAGES, conversation

    return [conversation(7, number, SIDE, TWO_IMAGES) for number in range(200)]


def named_boxes(answer):
    """Every (name, box or None) in an answer."""
    matches = [*QUOTED.findall(answer), *REACH.findall(answer)]
    return [(name, [int(corner) for corner in corners] if corners[0] else None) for name, *corners in matches]


def test_answers_name_the_items_and_their_boxes(talks):
    from data.synthetic.generate import normalized

    kinds = Counter()
    for talk in talks:
        images = [{t.name: normalized(t.box, (SIDE, SIDE)) for t in scene.items} for scene in talk.scenes]
        for turn in talk.turns:
            boxes = images["In the second" in turn.question]
            named = named_boxes(turn.answer)
            if "what is meant" in turn.question or "differs" in turn.question or "changed" in turn.question:
                continue
            if "in each picture" in turn.question:
                kinds["each"] += 1
                assert [name for name, _ in named] == [named[0][0]] * 2 and named[0][0] in turn.question
                assert [box for _, box in named] == [boxes.get(named[0][0]) for boxes in images]
                continue
            assert all(boxes.get(name) == box for name, box in named)
            if "which things are there?" in turn.question.lower():
                kinds["list"] += 1
                assert dict(named) == boxes
            elif turn.answer.startswith("There is no "):
                kinds["absent"] += 1
                assert turn.answer.removeprefix("There is no ").rstrip(".") not in boxes
            else:
                kinds["nowhere" if "nowhere" in turn.answer else "place"] += 1
                kinds["both"] += len(named) == 2
                assert named and all(name in turn.question for name, _ in named)
                assert turn.box is None or [turn.box] == [box for _, box in named]
    assert len(kinds) == 6 and min(kinds.values()) > 2, kinds


def test_answers_about_both_images_follow_from_the_edit(talks):
    from data.synthetic.generate import normalized
    from tools.tiny_base.vision import ground

    seen = Counter()
    for talk in talks[:150]:
        positions = [{t.name: normalized(t.box, (SIDE, SIDE)) for t in scene.items} for scene in talk.scenes]
        for turn in talk.turns:
            named = named_boxes(turn.answer)
            if "differs" in turn.question or "was changed" in turn.question:
                first, second = positions
                if not named:
                    assert turn.answer.lower().endswith(("nothing.", "0 differ."))
                    assert first == second and ground(talk.scenes[0]) == ground(talk.scenes[1])
                elif " differ: " in turn.answer:
                    assert turn.answer.startswith(str(len(named)))
                # An item that only one image shows, or shows elsewhere, is named under its name in the second if it has one.
                gone = {
                    name for name in first if second.get(name) != first[name] and first[name] not in second.values()
                }
                new = {name for name in second if first.get(name) != second[name]}
                assert new <= {name for name, _ in named} <= new | gone | {"background"}
                seen["differs" if named else "nothing differs"] += 1
                if named and "whether it was meant" in turn.question:
                    again = MEANT_OR_NOT.findall(turn.answer)
                    assert [name for name, _ in again] == [name for name, _ in named]
                    # A request names what is to change, and what an item becomes unless it is recolored.
                    assert not any(unmeant for name, unmeant in again if name in turn.question.lower())
                    seen["meant or not"] += 1
            elif "what is meant in the second" in turn.question:
                assert named and all(positions[1].get(name) == box for name, box in named)
                seen["meant"] += 1
            elif "what is meant in each" in turn.question:
                assert len(named) in (2, 4)
                for (was, before), (becomes, after) in zip(named[::2], named[1::2], strict=True):
                    assert positions[0].get(was) == before and positions[1].get(becomes) == after
                seen["meant in each"] += 1
    assert len(seen) == 5 and min(seen.values()) > 5, seen


def test_a_tinted_ground_is_one_that_an_edit_changed():
    from data.synthetic.generate import random_group
    from tools.tiny_base.vision import ground

    rng = np.random.default_rng(3)
    seen = Counter()
    for _ in range(60):
        for candidate in random_group(rng, SIDE, None)[2]:
            seen[candidate.background_changed, ground(candidate.scene)] += 1
    assert seen[False, "tinted"] == 0 and seen[True, "tinted"] > seen[True, "plain"]


def test_no_conversation_holds_anything_of_a_verdict(talks):
    text = " ".join(turn.question + turn.answer for talk in talks for turn in talk.turns)
    assert not [word for word in ("{", "<|", "score", "edit", "reason", "bbox") if word in text]


def test_the_tower_learns_what_every_token_shows(tiny_processor):
    from data.synthetic.scene import draw_scene
    from tools.tiny_base.model import CELL
    from tools.tiny_base.vision import (
        DAMAGES,
        GROUNDS,
        IGNORED,
        ScenesWithTargets,
        ground,
        random_images,
        token_targets,
    )

    drawn = random_images(np.random.default_rng(5), 40, SIDE)
    for one in drawn:
        kind, level = one.damage
        assert (kind == 0) == (level == 0) == (one.image.tobytes() == draw_scene(one.scene).tobytes())
        grounds = {color for color, shape, *_ in token_targets(one.scene, CELL) if shape == 0}
        assert grounds == {GROUNDS.index(ground(one.scene))}
    assert {one.damage[0] for one in drawn} == set(range(len(DAMAGES)))
    assert {ground(one.scene) for one in drawn} == set(GROUNDS)
    pixels, grids, targets = next(iter(ScenesWithTargets(tiny_processor, 8, SIDE, 5)))
    tokens = int(grids.prod(dim=1).sum()) // 4
    assert len(pixels) == 4 * tokens and targets.shape == (tokens, 8)
    # A token without an item has no corners; damage is the whole image's.
    assert ((targets[:, 1] == 0) == (targets[:, 2:6] == IGNORED).all(dim=1)).all()
    assert all(len(set(map(tuple, part.tolist()))) == 1 for part in targets[:, 6:].split(16))


def test_the_targets_of_the_second_image_are_the_first_one_s_and_whether_they_differ():
    import torch

    from data.synthetic.generate import random_group
    from tools.tiny_base.comparing import compare_tokens
    from tools.tiny_base.model import CELL
    from tools.tiny_base.vision import ground, token_targets

    rng = np.random.default_rng(2)
    positions = torch.zeros(1, 40, dtype=torch.bool)
    positions[0, 3:19] = positions[0, 21:37] = True
    for _ in range(20):
        source, _, candidates = random_group(rng, SIDE, None)
        for candidate in candidates:
            batch = compare_tokens(positions, [(source, candidate.scene)], CELL)
            assert batch["cells"].tolist() == [[0, i] for i in range(21, 37)]
            assert batch["cell_targets"][:, :-1].tolist() == token_targets(source, CELL).tolist()
            differs = batch["cell_targets"][:, -1]
            assert bool(differs.any()) == (source.items != candidate.scene.items or ground(candidate.scene) != "plain")
    assert not len(compare_tokens(positions, [(source,)], CELL)["cells"])


def test_read_outs_are_taken_where_names_end(tiny_processor):
    from data.synthetic.scene import COLORS, SHAPES
    from tools.tiny_base.__main__ import chat
    from tools.tiny_base.grounding import ONE_IMAGE, conversation
    from tools.tiny_base.names import boxes_of, name_ends, name_words

    tokenizer = tiny_processor.tokenizer
    words = name_words(tokenizer)
    for number in range(20):
        talk = conversation(7, number, SIDE, ONE_IMAGE)
        text = tiny_processor.apply_chat_template(chat(talk))
        ids = tokenizer(text)["input_ids"]
        ends = {i: box for i, box, _ in name_ends(ids, talk.about(), tokenizer)}
        assert ends
        for i, box in ends.items():
            names = [name for name, other in boxes_of(talk.scenes[0]).items() if other == box]
            word = words[ids[i]]
            assert len(names) == 1 and word in names[0].split()
            assert word in COLORS or f"{words[ids[i - 1]]} {word}" == names[0]
        names = [f"{words.get(before)} {words.get(token)}" for before, token in itertools.pairwise(ids)]
        count = sum(name in boxes_of(talk.scenes[0]) for name in names)
        assert sum(words[ids[i]] in SHAPES for i in ends) == count


def test_a_name_means_the_item_in_the_image_named_before_it(tiny_processor):
    from data.synthetic.scene import SHAPES
    from tools.tiny_base.names import NamedItems

    tokenizer, named = tiny_processor.tokenizer, Counter()
    batches = (batch for batch in NamedItems(tiny_processor, 16, SIDE, 3) if 1 in batch["images"])
    for batch in itertools.islice(batches, 4):
        boxes = {}
        for (row, i), box, image in zip(
            batch["positions"].tolist(), batch["corners"].tolist(), batch["images"], strict=True
        ):
            before = tokenizer.decode(batch["input_ids"][row, : i + 1])
            assert ORDINAL.findall(before)[-1] == ("first", "second")[image]
            name = " ".join(before.split()[-2:])
            if name.split()[1] in SHAPES:
                named[int(image)] += 1
                # One item has one box in an image, and another one in the other.
                assert boxes.setdefault((row, name, int(image)), box) == box
        apart = [
            boxes[row, name, 0] != box for (row, name, image), box in boxes.items() if image and (row, name, 0) in boxes
        ]
        assert len(apart) > 5 and np.mean(apart) > 0.9
    assert min(named.values()) > 50


def test_a_name_in_an_answer_leads_to_the_box_after_it(tiny_processor, talks):
    from data.synthetic.generate import normalized
    from tools.tiny_base.__main__ import chat
    from tools.tiny_base.names import name_ends
    from tools.tiny_base.vision import IGNORED

    tokenizer, seen = tiny_processor.tokenizer, 0
    for talk in talks[:40]:
        ids = tokenizer(tiny_processor.apply_chat_template(chat(talk)))["input_ids"]
        for i, box, image in name_ends(ids, talk.about(), tokenizer):
            if image == IGNORED:
                assert len(talk.scenes) == 1
            elif tokenizer.decode(ids[: i + 1]).rsplit("<|im_start|>", 1)[1].startswith("assistant"):
                after = re.match(
                    r'[a-z ]*",? (?:which is at |at )?(\d+), (\d+), (\d+), (\d+)', tokenizer.decode(ids[i + 1 :])
                )
                if after:
                    seen += 1
                    assert normalized(box, (SIDE, SIDE)) == [*map(int, after.groups())]
    assert seen > 100


@pytest.mark.parametrize("part", ["names", "sentences"])
def test_batches_hold_corners_within_the_image(tiny_processor, part):
    import torch

    from tools.tiny_base.__main__ import NO_LEVELS, Batches
    from tools.tiny_base.names import NamedItems, name_words

    batches = NamedItems(tiny_processor, 8, SIDE, 3) if part == "names" else Batches(tiny_processor, 4, 60.0, NO_LEVELS)
    batch = next(iter(batches))
    assert len(batch["positions"]) == len(batch["corners"]) >= 8
    assert batch["corners"].min() >= 0 and batch["corners"].max() <= SIDE
    assert (batch["corners"][:, :2] < batch["corners"][:, 2:]).all()
    tokenizer = tiny_processor.tokenizer
    names = name_words(tokenizer).keys()
    rows, positions = batch["positions"].T
    assert set(batch["input_ids"][rows, positions].tolist()) <= names
    if "cells" in batch:
        rows, positions = batch["cells"].T
        assert (batch["input_ids"][rows, positions] == tiny_processor.image_token_id).all()
        # The second image's tokens: sixteen, after the sixteen of the first.
        before = (batch["input_ids"] == tiny_processor.image_token_id).cumsum(dim=1)[rows, positions]
        assert before.tolist() == [*range(17, 33)] * (len(rows) // 16)
        assert 0 < batch["cell_targets"][:, -1].sum() < len(rows)
    if "labels" in batch:
        answered = batch["labels"] != -100
        assert 0 < answered.sum() < answered.numel()
        assert torch.equal(batch["labels"][answered], batch["input_ids"][answered])


@pytest.mark.slow
def test_the_script_builds_a_checkpoint_that_loads(tmp_path):
    minutes = ["--tower_minutes", 0.05, "--names_minutes", 0.05, "--sentences_minutes", 0.1]
    done = run_stage("tools.tiny_base", *minutes, "--output_dir", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {file.name for file in BASE.iterdir()} == {file.name for file in tmp_path.iterdir()}
    measured = run_stage("tools.tiny_base.measure", "--model", tmp_path, "--conversations", 16, "--groups", 1)
    assert "verdict prompts, valid: 0.000" in measured.stdout, measured.stderr[-2000:]
