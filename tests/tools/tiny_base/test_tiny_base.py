"""The tiny base: what it is asked, where the read-outs look, and that its script builds a checkpoint that loads."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest
import torch

from data.synthetic.generate import normalized, random_group
from data.synthetic.scene import COLORS, SHAPES, draw_scene
from tests.conftest import BASE, run_stage
from tools.tiny_base.__main__ import NO_LEVELS, Batches, chat
from tools.tiny_base.comparing import compared
from tools.tiny_base.grounding import ONE_PICTURE, TWO_PICTURES, conversation
from tools.tiny_base.model import CELL, SIDE
from tools.tiny_base.names import NamedThings, boxes_of, name_ends, name_words
from tools.tiny_base.vision import DAMAGES, GROUNDS, IGNORED, ScenesWithTargets, ground, random_pictures, token_targets

PLACE = re.compile(r'"(\w+(?: \w+)?)",?(?: which is)?(?: at)? (?:nowhere|(\d+), (\d+), (\d+), (\d+))')
MEANT_OR_NOT = re.compile(r"The (\w+(?: \w+)?) was (not )?meant")
ORDINAL = re.compile(r"in the (first|second) picture,")
REACH = re.compile(r"(\w+ \w+) (?:reaches )?from (\d+) (\d+) to (\d+) (\d+)")


def said_places(answer):
    """Every (name, box or None) that an answer tells."""
    found = [*PLACE.findall(answer), *REACH.findall(answer)]
    return [(name, [int(corner) for corner in corners] if corners[0] else None) for name, *corners in found]


def test_answers_name_the_things_and_their_places():
    kinds = Counter()
    for number in range(200):
        talk = conversation(7, number, SIDE, TWO_PICTURES)
        pictures = [{t.name: normalized(t.box, (SIDE, SIDE)) for t in scene.items} for scene in talk.scenes]
        for turn in talk.turns:
            boxes = pictures["In the second" in turn.question]
            told = said_places(turn.answer)
            if "what is meant" in turn.question or "differs" in turn.question or "changed" in turn.question:
                continue
            if "in each picture" in turn.question:
                kinds["each"] += 1
                assert [name for name, _ in told] == [told[0][0]] * 2 and told[0][0] in turn.question
                assert [box for _, box in told] == [known.get(told[0][0]) for known in pictures]
                continue
            assert all(boxes.get(name) == box for name, box in told)
            if "which things are there?" in turn.question.lower():
                kinds["list"] += 1
                assert dict(told) == boxes
            elif turn.answer.startswith("There is no "):
                kinds["absent"] += 1
                assert turn.answer.removeprefix("There is no ").rstrip(".") not in boxes
            else:
                kinds["nowhere" if "nowhere" in turn.answer else "place"] += 1
                kinds["both"] += len(told) == 2
                assert told and all(name in turn.question for name, _ in told)
                assert turn.box is None or [turn.box] == [box for _, box in told]
    assert len(kinds) == 6 and min(kinds.values()) > 2, kinds


def test_answers_about_both_pictures_follow_from_what_was_done():
    seen = Counter()
    for number in range(150):
        talk = conversation(7, number, SIDE, TWO_PICTURES)
        places = [{t.name: normalized(t.box, (SIDE, SIDE)) for t in scene.items} for scene in talk.scenes]
        for turn in talk.turns:
            told = said_places(turn.answer)
            if "differs" in turn.question or "was changed" in turn.question:
                first, second = places
                if not told:
                    assert turn.answer.lower().endswith(("nothing.", "0 differ."))
                    assert first == second and ground(talk.scenes[0]) == ground(talk.scenes[1])
                elif " differ: " in turn.answer:
                    assert turn.answer.startswith(str(len(told)))
                # A thing that only one picture shows, or shows elsewhere, is told under its name in the second if it has one.
                gone = {
                    name for name in first if second.get(name) != first[name] and first[name] not in second.values()
                }
                new = {name for name in second if first.get(name) != second[name]}
                assert new <= {name for name, _ in told} <= new | gone | {"background"}
                seen["differs" if told else "nothing differs"] += 1
                if told and "whether it was meant" in turn.question:
                    again = MEANT_OR_NOT.findall(turn.answer)
                    assert [name for name, _ in again] == [name for name, _ in told]
                    # A request names what is to change, and what a thing becomes unless it is recoloured.
                    assert not any(unmeant for name, unmeant in again if name in turn.question.lower())
                    seen["meant or not"] += 1
            elif "what is meant in the second" in turn.question:
                assert told and all(places[1].get(name) == box for name, box in told)
                seen["meant"] += 1
            elif "what is meant in each" in turn.question:
                assert len(told) in (2, 4)
                for (was, before), (becomes, after) in zip(told[::2], told[1::2], strict=True):
                    assert places[0].get(was) == before and places[1].get(becomes) == after
                seen["meant in each"] += 1
    assert len(seen) == 5 and min(seen.values()) > 5, seen


def test_a_tinted_ground_is_one_that_an_edit_changed():
    rng = np.random.default_rng(3)
    seen = Counter()
    for _ in range(60):
        for candidate in random_group(rng, SIDE, None)[2]:
            seen[candidate.background_changed, ground(candidate.scene)] += 1
    assert seen[False, "tinted"] == 0 and seen[True, "tinted"] > seen[True, "plain"]


def test_no_conversation_holds_anything_of_a_verdict():
    text = " ".join(turn.question + turn.answer for n in range(200) for turn in conversation(7, n, SIDE).turns)
    assert not [word for word in ("{", "<|", "score", "edit", "reason", "bbox") if word in text]


def test_the_tower_is_told_what_every_token_shows(tiny_processor):
    drawn = random_pictures(np.random.default_rng(5), 40, SIDE)
    for one in drawn:
        kind, level = one.damage
        assert (kind == 0) == (level == 0) == (one.picture.tobytes() == draw_scene(one.scene).tobytes())
        grounds = {colour for colour, shape, *_ in token_targets(one.scene, CELL) if shape == 0}
        assert grounds == {GROUNDS.index(ground(one.scene))}
    assert {one.damage[0] for one in drawn} == set(range(len(DAMAGES)))
    assert {ground(one.scene) for one in drawn} == set(GROUNDS)
    pixels, grids, targets = next(iter(ScenesWithTargets(tiny_processor, 8, SIDE, 5)))
    tokens = int(grids.prod(dim=1).sum()) // 4
    assert len(pixels) == 4 * tokens and targets.shape == (tokens, 8)
    # A token without a thing has no corners; damage is the whole picture's.
    assert ((targets[:, 1] == 0) == (targets[:, 2:6] == IGNORED).all(dim=1)).all()
    assert all(len(set(map(tuple, part.tolist()))) == 1 for part in targets[:, 6:].split(16))


def test_the_second_picture_is_told_what_stood_in_the_first_and_whether_it_differs():
    rng = np.random.default_rng(2)
    places = torch.zeros(1, 40, dtype=torch.bool)
    places[0, 3:19] = places[0, 21:37] = True
    for _ in range(20):
        source, _, candidates = random_group(rng, SIDE, None)
        for candidate in candidates:
            found = compared(places, [(source, candidate.scene)], CELL)
            assert found["cells"].tolist() == [[0, place] for place in range(21, 37)]
            assert found["cell_targets"][:, :-1].tolist() == token_targets(source, CELL).tolist()
            differs = found["cell_targets"][:, -1]
            assert bool(differs.any()) == (
                source.items != candidate.scene.items or ground(candidate.scene) != "plain"
            )
    assert not len(compared(places, [(source,)], CELL)["cells"])


def test_read_outs_look_where_names_end(tiny_processor):
    tokenizer = tiny_processor.tokenizer
    words = name_words(tokenizer)
    for number in range(20):
        talk = conversation(7, number, SIDE, ONE_PICTURE)
        text = tiny_processor.apply_chat_template(chat(talk))
        ids = tokenizer(text)["input_ids"]
        ends = {place: box for place, box, _ in name_ends(ids, talk.about(), tokenizer)}
        assert ends
        for place, box in ends.items():
            names = [name for name, known in boxes_of(talk.scenes[0]).items() if known == box]
            word = words[ids[place]]
            assert len(names) == 1 and word in names[0].split()
            assert word in COLORS or f"{words[ids[place - 1]]} {word}" == names[0]
        names = [f"{words.get(before)} {words.get(token)}" for before, token in itertools.pairwise(ids)]
        said = sum(name in boxes_of(talk.scenes[0]) for name in names)
        assert sum(words[ids[place]] in SHAPES for place in ends) == said


def test_a_name_means_the_thing_in_the_picture_that_is_told(tiny_processor):
    tokenizer, told = tiny_processor.tokenizer, Counter()
    batches = (batch for batch in NamedThings(tiny_processor, 16, SIDE, 3) if 1 in batch["pictures"])
    for batch in itertools.islice(batches, 4):
        boxes = {}
        for (row, place), box, picture in zip(
            batch["places"].tolist(), batch["corners"].tolist(), batch["pictures"], strict=True
        ):
            before = tokenizer.decode(batch["input_ids"][row, : place + 1])
            assert ORDINAL.findall(before)[-1] == ("first", "second")[picture]
            name = " ".join(before.split()[-2:])
            if name.split()[1] in SHAPES:
                told[int(picture)] += 1
                # One thing has one box in a picture, and another one in the other.
                assert boxes.setdefault((row, name, int(picture)), box) == box
        apart = [
            boxes[row, name, 0] != box
            for (row, name, picture), box in boxes.items()
            if picture and (row, name, 0) in boxes
        ]
        assert len(apart) > 5 and np.mean(apart) > 0.9
    assert min(told.values()) > 50


def test_a_name_in_an_answer_leads_to_the_place_told_after_it(tiny_processor):
    tokenizer, seen = tiny_processor.tokenizer, 0
    for number in range(40):
        talk = conversation(7, number, SIDE, TWO_PICTURES)
        ids = tokenizer(tiny_processor.apply_chat_template(chat(talk)))["input_ids"]
        for place, box, picture in name_ends(ids, talk.about(), tokenizer):
            if picture == IGNORED:
                assert len(talk.scenes) == 1
            elif tokenizer.decode(ids[: place + 1]).rsplit("<|im_start|>", 1)[1].startswith("assistant"):
                after = re.match(
                    r'[a-z ]*",? (?:which is at |at )?(\d+), (\d+), (\d+), (\d+)', tokenizer.decode(ids[place + 1 :])
                )
                if after:
                    seen += 1
                    assert normalized(box, (SIDE, SIDE)) == [*map(int, after.groups())]
    assert seen > 100


@pytest.mark.parametrize("batches", [lambda p: NamedThings(p, 8, SIDE, 3), lambda p: Batches(p, 4, 60.0, NO_LEVELS)])
def test_batches_hold_corners_within_the_picture(tiny_processor, batches):
    batch = next(iter(batches(tiny_processor)))
    assert len(batch["places"]) == len(batch["corners"]) >= 8
    assert batch["corners"].min() >= 0 and batch["corners"].max() <= SIDE
    assert (batch["corners"][:, :2] < batch["corners"][:, 2:]).all()
    tokenizer = tiny_processor.tokenizer
    names = name_words(tokenizer).keys()
    rows, places = batch["places"].T
    assert set(batch["input_ids"][rows, places].tolist()) <= names
    if "cells" in batch:
        rows, places = batch["cells"].T
        assert (batch["input_ids"][rows, places] == tiny_processor.image_token_id).all()
        # The second picture's tokens: sixteen, after the sixteen of the first.
        before = (batch["input_ids"] == tiny_processor.image_token_id).cumsum(dim=1)[rows, places]
        assert before.tolist() == [*range(17, 33)] * (len(rows) // 16)
        assert 0 < batch["cell_targets"][:, -1].sum() < len(rows)
    if "labels" in batch:
        answered = batch["labels"] != -100
        assert 0 < answered.sum() < answered.numel()
        assert torch.equal(batch["labels"][answered], batch["input_ids"][answered])


@pytest.mark.slow
def test_the_script_builds_a_checkpoint_that_loads(tmp_path):
    minutes = ["--tower-minutes", 0.05, "--names-minutes", 0.05, "--sentences-minutes", 0.1]
    done = run_stage("tiny_base", *minutes, "--output_dir", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {file.name for file in BASE.iterdir()} == {file.name for file in tmp_path.iterdir()}
    measured = run_stage("tiny_base.measure", "--model", tmp_path, "--conversations", 16, "--groups", 1)
    assert "verdict prompts, valid: 0.000" in measured.stdout, measured.stderr[-2000:]
