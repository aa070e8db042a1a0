"""Expected scores: the tree in one pass on the cache gives what every integer alone gives without a cache."""

import pytest

from spatial_edit_reward import Spec, render
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.images import fit
from spatial_edit_reward.inference.backends import open_backend
from spatial_edit_reward.inference.request import Request
from tests.conftest import BASE

SPEC = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=200)


@pytest.fixture(scope="module")
def tiny():
    from spatial_edit_reward.inference.model import load_for_inference

    return load_for_inference(str(BASE), SPEC)


@pytest.fixture(scope="module")
def rows():
    from data.synthetic.generate import group_rows

    return [row for number in range(2) for row in group_rows(seed=5, number=number, image_size=64)][:9]


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
    from spatial_edit_reward.inference.generation import generate_batch
    from tests.spatial_edit_reward.inference.forced import writing

    messages = [prompt_messages(row["task"], row["instruction"], SPEC) for row in rows]
    images = [[fit(image, SPEC.pixels) for image in row["images"]] for row in rows]
    with writing(model, processor, texts):
        batch = generate_batch(model, processor, messages, images, SPEC.max_new_tokens)
    assert [response.text for response in batch.responses] == texts
    return batch, messages, images


def log_probabilities(model, processor, messages, images, prefix, continuations):
    """Of each of `continuations`, all of one length, after the prompt and `prefix` (token ids): no cache, no padding."""
    import torch

    count = len(continuations)
    texts = processor.apply_chat_template([messages] * count, add_generation_prompt=True)
    inputs = processor(text=texts, images=[images] * count, return_tensors="pt")
    more = torch.tensor([prefix + continuation for continuation in continuations])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], more], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(more)], dim=1)
    with torch.inference_mode():
        after = model(**inputs, use_cache=False).logits.log_softmax(-1)
    before = after[:, -len(continuations[0]) - 1 : -1]
    return before.gather(2, torch.tensor(continuations)[:, :, None]).sum((1, 2)).tolist()


def brute_force(model, processor, messages, images, head, between, ends):
    """Both means, every integer by itself. `head`: the text before the first score; `between` the two; `ends`: after each."""
    import torch

    encode = processor.tokenizer.encode
    means, text = [], head
    for end in ends:
        scores = []
        for integers in (range(10), range(10, 26)):
            continuations = [encode(f"{k}{end}") for k in integers]
            scores += log_probabilities(model, processor, messages, images, encode(text), continuations)
        shares = torch.tensor(scores, dtype=torch.double).softmax(0)
        means.append(float((shares * torch.arange(26)).sum()))
        text += f"{int(shares.argmax())}{between}"
    return means


def test_they_are_what_every_integer_alone_gets_without_a_cache(tiny, rows):
    from spatial_edit_reward.inference.expected_score import expected_scores

    model, processor = tiny
    texts = verdicts_of(rows)
    batch, messages, images = forced(model, processor, rows, texts)
    past = batch.cache.get_seq_length()
    expected = expected_scores(model, processor, batch, [row["task"] for row in rows], SPEC.score_range)
    assert batch.cache.get_seq_length() == past
    assert [i for i, pair in enumerate(expected) if pair is None] == [2, 3, 5]
    written = {
        1: ('"score":[ ', ", ", (",", "]}")),
        4: ('"score": [', ", ", (",", "]}")),
        7: ('"score": [', " , ", (" ", " ")),
    }
    for i, (head, between, ends) in written.items():
        before = texts[i][: texts[i].index(head) + len(head)]
        means = brute_force(model, processor, messages[i], images[i], before, between, ends)
        assert expected[i] == pytest.approx(means, abs=1e-4)
        assert all(0 < mean < 25 for mean in means)


def test_the_second_follows_the_firsts_most_likely_value_not_the_one_written(rows):
    from spatial_edit_reward.inference.expected_score import expected_scores
    from spatial_edit_reward.inference.model import load_model, load_processor

    # In double precision: in single, verdicts of different length differ by 1e-5 of a point from rounding alone.
    model, processor = load_model(str(BASE), "float64", None), load_processor(str(BASE), SPEC)
    text = render(rows[0]["task"], rows[0]["reference"])
    head = text[: text.index('"score"')]
    pairs = []
    for first in (3, 21):
        batch, _, _ = forced(model, processor, rows[:1], [f'{head}"score": [{first}, 9]}}'])
        pairs += expected_scores(model, processor, batch, [rows[0]["task"]], SPEC.score_range)
    assert pairs[0] == pytest.approx(pairs[1], abs=1e-5)


def test_what_branches_share_is_in_the_tree_once():
    from spatial_edit_reward.inference.expected_score import PREFIX, build_tree

    tree = build_tree([50, 51], [[1, 9], [2, 9], [1, 0, 9], [2, 5, 9]])
    assert tree.tokens == [50, 51, 1, 2, 0, 5]
    assert tree.parents == [PREFIX, 0, 1, 1, 2, 3]
    assert tree.predictors == [[1, 2], [1, 3], [1, 2, 4], [1, 3, 5]]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ('{"reasoning": "ok", "score": [20, 5]}', ("20", "5")),
        ('{"reasoning": "é \\"score\\": [1, 2]", "score": [ 0.5 ,25 ] }', ("0.5", "25")),
        ('A draft: {"score": [1, 2]}. The verdict: {"score": [3, 4]}', ("3", "4")),
        ('{"reasoning": "score: [3, 4]"}', None),
        ('{"score": [3]}', None),
    ],
)
def test_the_last_scores_are_found_among_the_tokens(tiny_processor, text, numbers):
    from spatial_edit_reward.inference.expected_score import digits_stand_alone, score_spans

    tokens = tiny_processor.tokenizer.encode(text)
    spans = score_spans(tokens, tiny_processor)
    assert (spans and tuple(tiny_processor.decode(tokens[a:b]) for a, b in spans)) == numbers
    assert digits_stand_alone(tiny_processor)


def test_the_backend_gives_none_for_an_unparsed_verdict(rows):
    request = Request("a", rows[0]["task"], rows[0]["instruction"], rows[0]["images"])
    spec = SPEC.model_copy(update={"max_new_tokens": 4})
    backend = open_backend("transformers", str(BASE), spec, batch_size=1, expected_score=True)
    [(_, response)] = backend([request])
    assert response.expected is None and response.text


def test_the_backend_reads_a_whole_verdict(rows, monkeypatch):
    from spatial_edit_reward.inference import transformers_backend
    from spatial_edit_reward.inference.model import load_for_inference
    from tests.spatial_edit_reward.inference.forced import writing

    model, processor = load_for_inference(str(BASE), SPEC)
    monkeypatch.setattr(transformers_backend, "load_for_inference", lambda *_: (model, processor))
    request = Request("a", rows[0]["task"], rows[0]["instruction"], rows[0]["images"])
    backend = open_backend("transformers", str(BASE), SPEC, batch_size=1, expected_score=True)
    with writing(model, processor, [render(rows[0]["task"], rows[0]["reference"])]):
        [(_, response)] = backend([request])
    assert not response.truncated and all(0 < score < 25 for score in response.expected)


@pytest.mark.parametrize("score_range", [(-1e6, 1e6), (0.1, 0.9)])
def test_a_range_of_too_many_numbers_or_of_none_is_refused(score_range):
    """It may come with a downloaded model: each whole number is a branch through the model."""
    from spatial_edit_reward.inference.transformers_backend import open_transformers

    spec = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=4, score_range=score_range)
    with pytest.raises(UserError, match="1 to 1001 whole numbers"):
        open_transformers(str(BASE), None, spec, 1, None, 0, expected_score=True)
