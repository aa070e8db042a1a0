"""Expected scores: the tree in one pass on the cache gives what every integer alone gives without a cache."""

import pytest
import torch

from data.synthetic.generate import group_rows
from spatial_edit_reward import Spec, render
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.images import fit
from spatial_edit_reward.inference.backends import open_backend
from spatial_edit_reward.inference.expected_score import (
    WHOLE_PREFIX,
    digits_stand_alone,
    expected_scores,
    plant,
    score_spans,
)
from spatial_edit_reward.inference.generation import generate_batch
from spatial_edit_reward.inference.model import load_model, load_processor
from spatial_edit_reward.inference.request import Request
from tests.conftest import BASE
from tests.spatial_edit_reward.inference.forced import writing

SPEC = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=200)
INTEGERS = range(26)


@pytest.fixture(scope="module")
def tiny():
    return load_model(str(BASE), None, None), load_processor(str(BASE), SPEC)


def verdicts_of(rows):
    """What each row's model is made to write: verdicts that can be read in several ways, and some that cannot."""
    texts = [render(row["task"], row["reference"]) for row in rows]
    texts[1] = texts[1].replace('"score": [', '"score":[ ')
    texts[2] = "no verdict at all"
    texts[3] = texts[3][: texts[3].index('"score"')]  # cut off
    texts[4] = texts[4][: texts[4].index('"score"')] + '"score": [7.5, 3]}'
    texts[5] = texts[5][: texts[5].index('"score"')] + '"score": [7, 99]}'
    texts[6] = f"```json\n{texts[6]}\n```"
    texts[7] = texts[7][: texts[7].index('"score"')] + '"score": [7 , 3 ] }'
    return texts


def forced(model, processor, rows, texts):
    """The batch that `generate_batch` gives, its model made to write `texts`."""
    messages = [prompt_messages(row["task"], row["instruction"], SPEC) for row in rows]
    images = [[fit(image, SPEC.pixels) for image in row["images"]] for row in rows]
    with writing(model, processor, texts):
        batch = generate_batch(model, processor, messages, images, SPEC.max_new_tokens)
    assert [said.text for said in batch.completions] == texts
    return batch, messages, images


def log_probability(model, processor, messages, images, prefix, continuation):
    """Of `continuation` after the prompt and `prefix` (token ids): one forward of one row, no cache, no padding."""
    text = processor.apply_chat_template([messages], add_generation_prompt=True)
    inputs = processor(text=text, images=[images], return_tensors="pt")
    more = torch.tensor([prefix + continuation])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], more], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(more)], dim=1)
    with torch.inference_mode():
        after = model(**inputs, use_cache=False).logits[0].log_softmax(-1)
    before = after[-len(continuation) - 1 : -1]
    return sum(float(row[token]) for row, token in zip(before, continuation, strict=True))


def brute_force(model, processor, messages, images, head, between, ends):
    """Both means by 52 forwards. `head`: the text before the first score; `between`: between the two; `ends`: after each."""
    encode = processor.tokenizer.encode
    means, text = [], head
    for end in ends:
        scores = [
            log_probability(model, processor, messages, images, encode(text), encode(f"{k}{end}")) for k in INTEGERS
        ]
        shares = torch.tensor(scores, dtype=torch.double).softmax(0)
        means.append(float((shares * torch.tensor(INTEGERS)).sum()))
        text += f"{int(shares.argmax())}{between}"
    return means


def test_they_are_what_every_integer_alone_gets_without_a_cache(tiny):
    model, processor = tiny
    rows = [row for number in range(2) for row in group_rows(seed=5, number=number, image_size=64)][:9]
    texts = verdicts_of(rows)
    batch, messages, images = forced(model, processor, rows, texts)
    past = batch.cache.get_seq_length()
    found = expected_scores(model, processor, batch, [row["task"] for row in rows], SPEC.score_range)
    assert batch.cache.get_seq_length() == past
    assert [place for place, one in enumerate(found) if one is None] == [2, 3, 5]
    ways = {
        1: ('"score":[ ', ", ", (",", "]}")),
        4: ('"score": [', ", ", (",", "]}")),
        7: ('"score": [', " , ", (" ", " ")),
    }
    for place, (head, between, ends) in ways.items():
        before = texts[place][: texts[place].index(head) + len(head)]
        means = brute_force(model, processor, messages[place], images[place], before, between, ends)
        assert found[place] == pytest.approx(means, abs=1e-4)
        assert all(0 < mean < 25 for mean in means)


def test_the_second_follows_the_firsts_most_likely_value_not_the_one_written():
    # In double precision: in single, verdicts of different length differ by 1e-5 of a point from rounding alone.
    model, processor = load_model(str(BASE), "float64", None), load_processor(str(BASE), SPEC)
    rows = group_rows(seed=5, number=0, image_size=64)[:1]
    text = render(rows[0]["task"], rows[0]["reference"])
    head = text[: text.index('"score"')]
    found = []
    for first in (3, 21):
        batch, _, _ = forced(model, processor, rows, [f'{head}"score": [{first}, 9]}}'])
        found += expected_scores(model, processor, batch, [rows[0]["task"]], SPEC.score_range)
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_what_branches_share_is_in_the_tree_once():
    tree = plant([50, 51], [[1, 9], [2, 9], [1, 0, 9], [2, 5, 9]])
    assert tree.tokens == [50, 51, 1, 2, 0, 5]
    assert tree.parents == [WHOLE_PREFIX, 0, 1, 1, 2, 3]
    assert tree.predictors == [[1, 2], [1, 3], [1, 2, 4], [1, 3, 5]]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ('{"reasoning": "ok", "score": [20, 5]}', ("20", "5")),
        ('{"reasoning": "é \\"score\\": [1, 2]", "score": [ 0.5 ,25 ] }', ("0.5", "25")),
        ('{"reasoning": "score: [3, 4]"}', None),
        ('{"score": [3]}', None),
    ],
)
def test_the_numbers_are_found_among_the_tokens(tiny_processor, text, numbers):
    tokens = tiny_processor.tokenizer.encode(text)
    spans = score_spans(tokens, tiny_processor)
    assert (spans and tuple(tiny_processor.decode(tokens[a:b]) for a, b in spans)) == numbers
    assert digits_stand_alone(tiny_processor)


def test_the_backend_gives_none_for_an_unparsed_verdict():
    row = group_rows(seed=5, number=0, image_size=64)[0]
    question = Request("a", row["task"], row["instruction"], row["images"])
    ask = open_backend(
        "transformers",
        str(BASE),
        SPEC.model_copy(update={"max_new_tokens": 4}),
        batch_size=1,
        temperature=0.0,
        expected_score=True,
    )
    [(_, reply)] = ask([question])
    assert reply.expected is None and reply.text
