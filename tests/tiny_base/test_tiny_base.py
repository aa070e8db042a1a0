"""The tiny base: what it is asked, where the read-outs look, and that its script builds a checkpoint that loads."""

import re
from collections import Counter

import pytest
import torch

from data.synthetic.generate import normalised
from data.synthetic.scene import COLOURS, SHAPES
from tests.conftest import BASE, run_stage
from tiny_base.__main__ import Batches, chat
from tiny_base.grounding import ONE_PICTURE, TWO_PICTURES, conversation
from tiny_base.model import SIDE
from tiny_base.names import NamedThings, name_ends, word_ids


def test_answers_name_the_things_and_their_places():
    asked = [turn for number in range(60) for turn in conversation(7, number, SIDE, TWO_PICTURES).turns]
    said = Counter()
    for turn in asked:
        places = {
            name: "from {} {} to {} {}".format(*normalised(box, (SIDE, SIDE))) for name, box in turn.things.items()
        }
        if turn.box is not None:
            name = next(name for name in turn.things if name in turn.question)
            assert turn.box == normalised(turn.things[name], (SIDE, SIDE))
            assert name in turn.answer and re.findall(r"\d+", turn.answer) == [str(corner) for corner in turn.box]
            said["place"] += 1
        elif turn.answer.startswith("There is no "):
            assert turn.answer.removeprefix("There is no ").rstrip(".") not in turn.things
            said["absent"] += 1
        else:
            assert all(name in turn.things and place == places[name] for name, place in listed(turn.answer))
            said["list"] += 1
            if "which things are there?" in turn.question:
                assert len(listed(turn.answer)) == len(turn.things)
    assert min(said.values()) > 5 and len(said) == 3


def listed(answer):
    return re.findall(r"an? (\w+ \w+) (from \d+ \d+ to \d+ \d+)", answer)


def test_no_conversation_holds_anything_of_a_verdict():
    text = " ".join(turn.question + turn.answer for n in range(200) for turn in conversation(7, n, SIDE).turns)
    assert not [word for word in ("{", "<|", "score", "edit", "reason", "remove", "bbox") if word in text]


def test_read_outs_look_where_names_end(tiny_processor):
    tokenizer = tiny_processor.tokenizer
    words = {token: word for word, token in word_ids(tokenizer).items()}
    words |= {token: word for word, token in word_ids(tokenizer, tuple(COLOURS), "").items()}
    for number in range(20):
        talk = conversation(7, number, SIDE, ONE_PICTURE)
        text = tiny_processor.apply_chat_template(chat(talk))
        ids = tokenizer(text)["input_ids"]
        ends = dict(name_ends(ids, [turn.things for turn in talk.turns], tokenizer))
        assert ends
        for place, box in ends.items():
            names = [name for name, known in talk.turns[0].things.items() if known == box]
            word = words[ids[place]]
            assert len(names) == 1 and word in names[0].split()
            assert word in COLOURS or f"{words[ids[place - 1]]} {word}" == names[0]
        said = sum(words.get(token) in SHAPES for token in ids)
        assert sum(words[ids[place]] in SHAPES for place in ends) == said


@pytest.mark.parametrize("batches", [lambda p: NamedThings(p, 8, SIDE, 3), lambda p: Batches(p, 4, 60.0)])
def test_batches_hold_corners_within_the_picture(tiny_processor, batches):
    batch = next(iter(batches(tiny_processor)))
    assert len(batch["places"]) == len(batch["corners"]) >= 8
    assert batch["corners"].min() >= 0 and batch["corners"].max() <= SIDE
    assert (batch["corners"][:, :2] < batch["corners"][:, 2:]).all()
    tokenizer = tiny_processor.tokenizer
    names = {*word_ids(tokenizer).values(), *word_ids(tokenizer, tuple(COLOURS), "").values()}
    rows, places = batch["places"].T
    assert set(batch["input_ids"][rows, places].tolist()) <= names
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
