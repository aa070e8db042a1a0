"""Backends: what is sent once, what batches change, and what an endpoint can do wrong without ever becoming a number."""

import atexit
import logging
import threading
import time
from types import SimpleNamespace

import pytest
from PIL import Image

from spatial_edit_reward import Spec, save_spec
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.backends import Endpoint, open_backend, load_model_spec
from spatial_edit_reward.inference.dedup import Usage, once
from spatial_edit_reward.inference.generation import generate
from spatial_edit_reward.inference.model import load_model, load_processor
from spatial_edit_reward.inference.request import Request, Response
from spatial_edit_reward.inference.vllm_backend import hit_rates, prompts_of
from tests.conftest import BASE
from tests.endpoint import AT_ONCE, chat, served
from tests.rewards_fn.test_judge import pictures_of

SPEC = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=4)
TEAL, PINK = Image.new("RGB", (70, 50), "teal"), Image.new("RGB", (64, 64), "pink")


def question(key, instruction="Remove the cup.", task="sc", images=(TEAL, PINK), sample=0):
    return Request(key, task, instruction, list(images) if task == "sc" else [images[-1]], sample)


# --- once


def echo(sent):
    """An `Ask` that keeps what it is sent, and answers last questions first; "silent" gets no answer."""

    def ask(questions):
        sent.append(list(questions))
        for each in reversed(questions):
            if each.instruction != "silent":
                yield each, Response(f"{each.instruction} {each.sample}", False, None, 100, 10)

    return ask


def test_what_would_be_sent_alike_is_sent_once_with_fitted_pictures():
    sent = []
    usage = Usage()
    ask = once(echo(sent), SPEC, 0.0, 64, usage)
    questions = [question("a"), question("b"), question("c", "Add a cup."), question("d", images=(PINK, PINK))]
    questions += [question("e", sample=1), question("f", task="pq"), question("g", "silent")]
    got = list(ask(questions))
    assert [len(part) for part in sent] == [5]
    assert {image.size for each in sent[0] for image in each.images} == {(64, 48), (64, 64)}
    # the caller's own questions, each once, and tokens counted once a request
    assert sorted(each.key for each, _ in got) == list("abcdef")
    assert all(any(each is one for one in questions) for each, _ in got)
    assert sum(reply.prompt_tokens for _, reply in got) == 400
    assert {each.key: reply.text for each, reply in got}["b"] == "Remove the cup. 0"
    said = "6 of 7 questions answered by 5 requests, 400 prompt and 40 completion tokens"
    assert usage.line(None) == said and usage.line((2.0, 30.0)) == f"{said}, $0.0020"
    # what was answered is not asked again, what was not is
    assert [each.key for each, _ in ask([question("h"), question("g", "silent")])] == ["h"]
    assert [each.key for each in sent[1]] == ["g"]


def test_samples_differ_above_temperature_0_only():
    for temperature, requests in ((0.0, 1), (0.7, 3)):
        sent = []
        replies = list(once(echo(sent), SPEC, temperature, 64, Usage())([question(str(n), sample=n) for n in range(3)]))
        assert len(replies) == 3 and len(sent[0]) == requests


def test_questions_are_looked_at_a_part_at_a_time():
    class Lazy:
        opened = 0

        def __len__(self):
            return 10

        def __getitem__(self, place):
            Lazy.opened += 1
            return question(str(place), f"Number {place}.")

    replies = once(echo([]), SPEC, 0.0, 4, Usage())(Lazy())
    next(replies)
    assert Lazy.opened == 4
    assert len(list(replies)) == 9


# --- options and specs


def test_options_that_do_not_go_together():
    with pytest.raises(UserError, match="temperature above 0"):
        open_backend("transformers", str(BASE), SPEC, batch_size=1, samples=4)
    with pytest.raises(UserError, match="--backend transformers, not openai"):
        open_backend("openai", "m", SPEC, batch_size=1, expected_score=True)
    with pytest.raises(UserError, match="no such backend; there are transformers, vllm, openai"):
        open_backend("sglang", "m", SPEC, batch_size=1)


def test_vllm_that_is_not_installed_is_one_line():
    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match=r"pip install '.\[vllm\]'"):
            open_backend("vllm", str(BASE), SPEC, batch_size=1)
    else:
        pytest.skip("vLLM is installed")


def test_vllm_is_given_one_placeholder_a_picture(tiny_processor):
    two, one = prompts_of([question("a"), question("b", task="pq")], tiny_processor, SPEC)
    assert two["prompt"].count("<|image_pad|>") == 2 and one["prompt"].count("<|image_pad|>") == 1
    assert two["multi_modal_data"] == {"image": [TEAL, PINK]} and one["multi_modal_data"] == {"image": [PINK]}
    assert SPEC.prompt("sc", "Remove the cup.") in two["prompt"] and two["prompt"].endswith("assistant\n")


def test_hit_rates_are_summed_over_engines():
    counts = {"prefix_cache_queries": 100, "prefix_cache_hits": 30, "mm_cache_queries": 4, "mm_cache_hits": 1}
    metrics = [SimpleNamespace(name=f"vllm:{name}", value=count) for name, count in counts.items()] * 2
    metrics += [SimpleNamespace(name="vllm:prompt_tokens", value=7), SimpleNamespace(name="vllm:latency", buckets={})]
    assert hit_rates(metrics) == [
        "vLLM's prefix cache had 60 of 200 tokens (30.0%)",
        "vLLM's mm cache had 2 of 8 pictures (25.0%)",
    ]


def test_the_spec_is_the_checkpoints_or_one_that_is_named(tmp_path, monkeypatch):
    save_spec(SPEC, tmp_path)
    assert load_model_spec(str(tmp_path), None) == load_model_spec("org/name", tmp_path) == SPEC
    assert load_model_spec("org/name", tmp_path / "verdict.json") == SPEC
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for model in ("org/name-that-is-not-there", "gpt"):
        with pytest.raises(UserError, match=r"no verdict.json with it.*--spec"):
            load_model_spec(model, None)


# --- transformers


def test_a_batch_says_what_each_question_alone_gets():
    model, processor = load_model(str(BASE), None, None), load_processor(str(BASE), SPEC)
    questions = [question("a"), question("b", task="pq"), question("c", "Add a very large and round orange cup.")]
    questions += [question("d", task="pq"), question("e", images=(TEAL, TEAL, PINK))]
    ask = open_backend("transformers", str(BASE), SPEC, batch_size=3)
    replies = {each.key: reply for each, reply in ask(questions)}
    assert sorted(replies) == list("abcde")
    for each in questions:
        pictures = [image.resize((64, 48)) if image is TEAL else image for image in each.images]
        content = [{"type": "image"} for _ in pictures]
        content.append({"type": "text", "text": SPEC.prompt(each.task, each.instruction)})
        [alone] = generate(model, processor, [[{"role": "user", "content": content}]], [pictures], 4)
        reply = replies[each.key]
        assert (reply.text, reply.truncated, reply.expected) == (alone.text, alone.truncated, None)
        assert alone.truncated and (reply.completion_tokens == 4 or each.key == "d")
    # a picture of 64 x 48 is 12 tokens, one of 64 x 64 is 16; d was answered with b
    assert replies["a"].prompt_tokens - replies["b"].prompt_tokens > 12
    assert replies["e"].prompt_tokens - replies["a"].prompt_tokens == 12 + 2  # and where a picture starts and ends
    assert replies["d"].prompt_tokens == replies["d"].completion_tokens == 0 and replies["d"].text == replies["b"].text


def test_samples_are_drawn_and_can_be_drawn_again():
    def drawn():
        ask = open_backend("transformers", str(BASE), SPEC, batch_size=4, samples=4, temperature=1.0)
        return {each.sample: reply.text for each, reply in ask([question("a", sample=n) for n in range(4)])}

    first = drawn()
    assert len(set(first.values())) > 1 and drawn() == first


# --- openai


@pytest.fixture
def remote(endpoint, monkeypatch):
    """Asks the endpoint: questions and options in, replies by key out."""
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    at_exit = []
    monkeypatch.setattr(atexit, "register", at_exit.append)

    def ask(questions, concurrency=4, temperature=0.0, **options):
        how = Endpoint(**{"retries": 2, "deadline": 20.0, **options})
        opened = open_backend("openai", "m", SPEC, batch_size=concurrency, temperature=temperature, endpoint=how)
        replies = {each.key: reply for each, reply in opened(questions)}
        at_exit.pop()()
        return replies

    return ask


def test_an_endpoint_is_sent_the_pictures_the_prompt_and_the_limits(endpoint, remote, capsys):
    usage = b'"usage": {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}, '
    endpoint.answer = lambda number, body: (200, {}, chat("said")[2].replace(b"{", b"{" + usage, 1))
    replies = remote([question("a"), question("b"), question("c", "Half a pair: \ud800")], prices=(2.0, 8.0))
    assert replies["a"] == Response("said", False, None, 1000, 50)
    assert replies["b"] == Response("said", False, None, 0, 0)
    assert len(endpoint.received) == 2
    body = min(endpoint.received, key=lambda body: "Half" in str(body))
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0, 4)
    source, edited = pictures_of(body)
    assert source.size == (64, 48) and edited.tobytes() == PINK.tobytes()
    assert body["messages"][0]["content"][-1]["text"] == SPEC.prompt("sc", "Remove the cup.")
    assert endpoint.headers[0]["authorization"] == "Bearer secret"
    assert "2,000 prompt and 100 completion tokens, $0.0048" in capsys.readouterr().err


def test_a_model_that_thinks_first_is_given_its_own_limit(endpoint, remote):
    endpoint.answer = lambda number, body: chat("said")
    remote([question("a")], extra_body={"max_completion_tokens": 4096, "temperature": 1})
    (body,) = endpoint.received
    assert body["max_completion_tokens"] == 4096 and "max_tokens" not in body and body["temperature"] == 1


def test_an_answer_that_was_cut_off_says_so_and_a_refusal_is_empty(endpoint, remote):
    def answer(number, body):
        cut = "Cut." in body["messages"][0]["content"][-1]["text"]
        reason = b'"message": {"content": "half of", "role": "assistant"}, "finish_reason": "length"'
        whole = chat(None)[2]
        start = whole.index(b'"message"')
        return 200, {}, whole[:start] + reason + b"}]}" if cut else whole

    endpoint.answer = answer
    replies = remote([question("a", "Cut."), question("b", "Refuse.")])
    assert (replies["a"].text, replies["a"].truncated) == ("half of", True)
    assert (replies["b"].text, replies["b"].truncated) == ("", False)


def test_no_more_at_once_than_asked_for_and_answers_come_as_they_arrive(endpoint, remote):
    gate = threading.Event()

    def answer(number, body):
        time.sleep(0.05)
        if "Number 0." in body["messages"][0]["content"][-1]["text"]:
            gate.wait(10)
        return chat("said")

    endpoint.answer = answer
    how = Endpoint(retries=0)
    opened = open_backend("openai", "m", SPEC, batch_size=3, endpoint=how)
    replies = opened([question(str(n), f"Number {n}.") for n in range(12)])
    early = [next(replies)[0].key for _ in range(11)]
    assert "0" not in early
    gate.set()
    assert [each.key for each, _ in replies] == ["0"]
    assert endpoint.most == 3


def test_429_is_tried_again_and_one_that_stays_is_left_out(endpoint, remote, caplog):
    tries = {}

    def answer(number, body):
        text = body["messages"][0]["content"][-1]["text"].rsplit(": ", 1)[1]
        tries[text] = tries.get(text, 0) + 1
        passes = text == "Never." or (text == "Late." and tries[text] < 3)
        return (429, AT_ONCE, b'{"error": {"message": "slow down"}}') if passes else chat("said")

    endpoint.answer = answer
    with caplog.at_level(logging.WARNING):
        replies = remote([question(text[0], text) for text in ("Never.", "Late.", "Soon.")])
    assert sorted(replies) == ["L", "S"] and tries == {"Never.": 3, "Late.": 3, "Soon.": 1}
    (record,) = [record for record in caplog.records if record.name == "spatial_edit_reward.inference.openai_backend"]
    assert "no answer to N: RateLimitError" in record.getMessage() and "slow down" in record.getMessage()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((500, AT_ONCE, b"{}"), "InternalServerError"),
        ((200, {"content-type": "text/html"}, b"<p>hello</p>"), "not a chat completion"),
        ((200, {}, b'{"choices": [{"message"'), "JSONDecodeError"),
        ((200, {}, b'{"choices": []}'), "not a chat completion"),
        (chat([1, 2]), "not a chat completion"),
    ],
)
def test_a_failure_is_left_out_and_said(endpoint, remote, caplog, capsys, answer, reason):
    endpoint.answer = lambda number, body: chat("said") if "Good." in str(body) else answer
    with caplog.at_level(logging.WARNING):
        replies = remote([question("good", "Good."), question("bad", "Bad."), question("worse", "Worse.")])
    assert list(replies) == ["good"]
    assert reason in caplog.text and "bad" in caplog.text and "worse" in caplog.text
    assert "1 of 3 questions answered by 3 requests" in capsys.readouterr().err


def test_a_silent_endpoint_and_one_that_is_not_there(endpoint, remote, caplog, monkeypatch):
    def never(number, body):
        endpoint.over.wait(20)
        return chat("said")

    endpoint.answer = never
    start = time.monotonic()
    assert remote([question("a")], deadline=0.3) == {} and "no answer within 0.3 s" in caplog.text
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert remote([question("a")], retries=0) == {} and "APIConnectionError" in caplog.text
    assert time.monotonic() - start < 10


@pytest.mark.slow
def test_a_served_model_says_what_it_says_here(tmp_path, monkeypatch):
    questions = [question("a"), question("b", task="pq"), question("c", "Add a cup."), question("again")]
    local = {each.key: reply for each, reply in open_backend("transformers", str(BASE), SPEC, batch_size=4)(questions)}
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with served(BASE, tmp_path / "log") as base_url:
        monkeypatch.setenv("OPENAI_BASE_URL", base_url)
        ask = open_backend("openai", str(BASE), SPEC, batch_size=2)
        replies = {each.key: reply for each, reply in ask(questions)}
    # The server parses a reply, which takes the space off the end of one that was cut off behind a word.
    local = {key: reply._replace(text=reply.text.rstrip()) for key, reply in local.items()}
    assert replies == local and local["a"].truncated and local["a"].prompt_tokens > 28
