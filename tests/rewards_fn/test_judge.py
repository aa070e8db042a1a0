"""The judge against a real endpoint: a server on this machine that speaks the chat completions protocol."""

import asyncio
import base64
import inspect
import io
import json
import logging
import threading
import time
from collections import defaultdict
from http.server import ThreadingHTTPServer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

from rewards_fn import load_rewards
from rewards_fn.judge_prompt import messages_for, read_consistency
from spatial_edit_reward import parse
from spatial_edit_reward.draw import PREDICTED_COLOR
from tests.endpoint import AT_ONCE, Handler, chat

SOURCE, EDITED = Image.new("RGB", (300, 200), "#203040"), Image.new("RGB", (300, 200), "#506070")
PINK = ImageColor.getrgb(PREDICTED_COLOR)


def verdict_text(
    reasoning="<|bbox_0|> the cup is red. <|global|> it was done well.", number=0, box=(100, 200, 500, 700)
):
    region = {"id": number, "label": "cup", "bbox_2d": list(box)}
    return json.dumps({"edit_region": [region], "reasoning": reasoning, "score": [20, 10]})


PQ = json.dumps({"reasoning": "clean all over", "score": [25, 25]})


def run_judge(endpoint, completions, task="sc", cache=None, **keywords):
    """The judge's values for `completions` on the same row, called as TRL calls it, and the metrics it logged."""
    from rewards_fn.judge import judge  # with openai, which takes a while

    count, metrics = len(completions), defaultdict(list)
    values = asyncio.run(
        judge(
            prompts=["unused"] * count,
            completions=completions,
            completion_ids=[[1]] * count,
            images=[[SOURCE, EDITED] if task == "sc" else [EDITED]] * count,
            instruction=["make the cup red"] * count,
            reference=[{}] * count,
            task=[task] * count,
            log_metric=lambda name, value: metrics[name].append(value),
            log_extra=lambda name, values: None,
            trainer_state=None,
            **{"model": "m", "base_url": endpoint.base_url, "cache": cache and str(cache), **keywords},
        )
    )
    return values, {name.removeprefix("judge/"): value for name, (value,) in metrics.items()}


def images_in(body):
    (message,) = body["messages"]
    uris = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))) for uri in uris]


def test_the_judge_sees_the_images_the_boxes_the_instruction_and_the_verdict(endpoint, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    values, metrics = run_judge(
        endpoint, [verdict_text()], api_key_env="SOME_KEY", extra_body={"max_completion_tokens": 50}
    )
    assert values == [0.75]
    assert metrics == {"failed": 0, "unreadable": 0, "cached": 0}
    (body,), (headers,) = endpoint.received, endpoint.headers
    assert (body["model"], body["temperature"], body["max_completion_tokens"]) == ("m", 0, 50)
    assert (headers["path"], headers["authorization"]) == ("/v1/chat/completions", "Bearer secret")
    text = body["messages"][0]["content"][-1]["text"]
    assert "make the cup red" in text and verdict_text() in text and '{"consistency": NUMBER}' in text

    source, edited = images_in(body)
    assert source.size == edited.size == (300, 200)
    assert source.tobytes() == SOURCE.tobytes()
    # the box is (30, 40) to (149, 139): outlined in its color, its inside and everything far from it untouched
    assert [edited.getpixel(at) for at in ((30, 90), (149, 90), (90, 40), (90, 139))] == [PINK] * 4
    assert {edited.getpixel(at) for at in ((90, 90), (200, 90), (90, 180))} == {EDITED.getpixel((0, 0))}


def test_boxes_bear_their_ids():
    def edited(number):
        text = verdict_text(number=number)
        return images_in({"messages": messages_for([SOURCE, EDITED], "", "sc", parse(text, "sc"), text)})[1].tobytes()

    assert len({edited(number) for number in (0, 1, 12, "0")}) == 4
    # what no cite can name is drawn without a name
    assert edited("0") == edited(True) == edited(-1) == edited(10**3000)


def test_a_box_that_is_none_is_not_drawn_and_pq_shows_one_image(endpoint):
    assert run_judge(endpoint, [verdict_text(box=(9, 9, 5, 2000))])[0] == [0.75]
    assert images_in(endpoint.received[0])[1].tobytes() == EDITED.tobytes()
    assert run_judge(endpoint, [PQ], task="pq")[0] == [0.75]
    (edited,) = images_in(endpoint.received[1])
    assert edited.tobytes() == EDITED.tobytes()


def test_an_unparsed_completion_earns_0_and_no_request(endpoint):
    values, metrics = run_judge(endpoint, ["no verdict", "", [{"role": "assistant", "content": verdict_text()}]])
    assert values == [0.0, 0.0, 0.75]
    assert len(endpoint.received) == 1
    assert metrics["failed"] == 0


def test_no_more_requests_at_once_than_allowed(endpoint):
    def slowly(number, body):
        time.sleep(0.03)
        return chat('{"consistency": 1}')

    endpoint.answer = slowly
    values, _ = run_judge(endpoint, [verdict_text(f"<|bbox_0|> number {n}") for n in range(12)], concurrency=3)
    assert values == [1.0] * 12
    assert len(endpoint.received) == 12
    assert endpoint.most == 3


def test_values_come_in_the_order_of_the_completions(endpoint):
    def by_number(number, body):
        text = body["messages"][0]["content"][-1]["text"]
        i = next(n for n in range(6) if f"number {n}" in text)
        time.sleep(0.01 * (6 - i))
        return chat(json.dumps({"consistency": i / 10}))

    endpoint.answer = by_number
    completions = [verdict_text(f"<|bbox_0|> number {n}") for n in range(6)]
    assert run_judge(endpoint, completions)[0] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


def test_errors_that_pass_are_tried_again(endpoint):
    passing = {1: (429, AT_ONCE, b"{}"), 2: (503, AT_ONCE, b"{}"), 3: (500, AT_ONCE, b"{}")}
    endpoint.answer = lambda number, body: passing.get(number) or chat('{"consistency": 0.5}')
    values, metrics = run_judge(endpoint, [verdict_text()], retries=3)
    assert (values, metrics["failed"]) == ([0.5], 0)
    assert len(endpoint.received) == 4


@pytest.mark.parametrize(
    ("answer", "requests", "kind", "reason"),
    [
        ((500, AT_ONCE, b'{"error": {"message": "no memory left"}}'), 3, "failed", "no memory left"),
        ((400, {}, b'{"error": {"message": "no such model"}}'), 1, "failed", "no such model"),
        ((401, {}, b"{}"), 1, "failed", "AuthenticationError"),
        ((200, {}, b'{"choices": [{"message"'), 1, "failed", "JSONDecodeError"),
        ((200, {"content-type": "text/html"}, b"<p>hello</p>"), 1, "unreadable", "not a chat completion"),
        ((200, {}, b'{"choices": []}'), 1, "unreadable", "not a chat completion"),
        ((200, {}, b'{"choices": 3}'), 1, "unreadable", "not a chat completion"),
        ((200, {}, b"[1]"), 1, "unreadable", "not a chat completion"),
        (chat(None), 1, "unreadable", "answer None"),
        (chat("0.7 or so"), 1, "unreadable", "0.7 or so"),
    ],
)
def test_a_failure_is_none_and_counted(endpoint, caplog, tmp_path, answer, requests, kind, reason):
    endpoint.answer = lambda number, body: answer
    with caplog.at_level(logging.WARNING, "rewards_fn.judge"):
        values, metrics = run_judge(endpoint, [verdict_text(), "no verdict"], retries=2, cache=tmp_path)
    assert values == [None, 0.0]
    assert metrics == {"failed": 0, "unreadable": 0, "cached": 0, kind: 0.5}
    assert len(endpoint.received) == requests
    (record,) = caplog.records
    assert "1 of 2 completions" in record.getMessage() and reason in record.getMessage()
    assert list(tmp_path.iterdir()) == []  # only what could be read is kept


def test_a_silent_endpoint_ends_at_the_deadline(endpoint, caplog):
    def never(number, body):
        endpoint.over.wait(20)
        return chat('{"consistency": 1}')

    endpoint.answer = never
    start = time.monotonic()
    values, metrics = run_judge(endpoint, [verdict_text(), verdict_text("<|bbox_0|> another one here")], deadline=0.3)
    assert (values, metrics["failed"]) == ([None, None], 1.0)
    assert time.monotonic() - start < 3
    assert "no response within 0.3 s" in caplog.text


def test_the_deadline_holds_over_the_retries(endpoint):
    endpoint.answer = lambda number, body: (503, {"retry-after": "60"}, b"{}")
    start = time.monotonic()
    values, _ = run_judge(endpoint, [verdict_text()], deadline=0.3)
    assert values == [None]
    assert time.monotonic() - start < 3


def test_a_server_that_is_not_there(endpoint, caplog):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as gone:
        nowhere = f"http://127.0.0.1:{gone.server_address[1]}/v1"
    values, metrics = run_judge(endpoint, [verdict_text()], base_url=nowhere, retries=0)
    assert (values, metrics["failed"]) == ([None], 1.0)
    assert nowhere in caplog.text and "APIConnectionError" in caplog.text


def test_answers_are_kept_and_not_asked_for_again(endpoint, tmp_path):
    folder = tmp_path / "not" / "there"
    assert run_judge(endpoint, [verdict_text()], cache=folder) == ([0.75], {"failed": 0, "unreadable": 0, "cached": 0})
    assert run_judge(endpoint, [verdict_text()], cache=folder) == ([0.75], {"failed": 0, "unreadable": 0, "cached": 1})
    assert len(endpoint.received) == 1
    (file,) = folder.iterdir()
    assert json.loads(file.read_text()) == {"consistency": 0.75}
    # any other request has a key of its own
    for changed in ({"model": "n"}, {"extra_body": {"seed": 1}}, {"base_url": endpoint.base_url + "/"}):
        assert run_judge(endpoint, [verdict_text()], cache=folder, **changed)[1]["cached"] == 0
    assert run_judge(endpoint, [verdict_text(number=1)], cache=folder)[1]["cached"] == 0


@pytest.mark.parametrize("broken", [b"", b'{"consistency": 0.', b"\xff\xfe", b'{"consistency": 7}'])
def test_a_broken_file_of_the_cache_is_asked_for_again(endpoint, tmp_path, broken):
    run_judge(endpoint, [verdict_text()], cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(broken)
    assert run_judge(endpoint, [verdict_text()], cache=tmp_path)[0] == [0.75]
    assert len(endpoint.received) == 2
    assert run_judge(endpoint, [verdict_text()], cache=tmp_path)[1]["cached"] == 1


def test_the_same_request_is_made_once(endpoint):
    assert run_judge(endpoint, [verdict_text()] * 5 + [verdict_text("<|bbox_0|> another one here")])[0] == [0.75] * 6
    assert len(endpoint.received) == 2


ANSWERS = {
    '{"consistency": 0.7}': 0.7,
    ' {"consistency":1}\n': 1.0,
    '{"consistency": 0}': 0.0,
    '{"consistency": 1.5}': None,
    '{"consistency": -0.1}': None,
    '{"consistency": NaN}': None,
    '{"consistency": 1e999}': None,
    '{"consistency": true}': None,
    '{"consistency": "0.5"}': None,
    '{"consistency": null}': None,
    '{"consistency": [0.5]}': None,
    '{"consistency": 0.5, "consistency": 0.6}': None,
    '{"consistency": 0.5, "why": "x"}': None,
    '{"Consistency": 0.5}': None,
    '{"consistency": 0.5} as asked': None,
    '```json\n{"consistency": 0.5}\n```': None,
    '[["consistency", 0.5]]': None,
    '["consistency"]': None,
    "0.5": None,
    "0.7 or so": None,
    "[" * 100_000: None,
    "1" * 5_000: None,
    "": None,
    None: None,
}


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: repr(answer)[:40])
def test_answers_are_read_strictly(answer):
    assert read_consistency(answer) == ANSWERS[answer]


finite_floats = st.floats(allow_nan=False, allow_infinity=False)
any_text = st.text(st.characters(exclude_categories=()), max_size=9)  # half surrogate pairs among it
values = st.none() | st.booleans() | st.integers() | finite_floats | any_text
json_values = st.recursive(values, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner))
boxes = st.lists(st.floats(0, 1000) | st.integers(0, 1000), min_size=4, max_size=4)
regions = st.lists(json_values | st.fixed_dictionaries({"id": values, "bbox_2d": boxes | json_values}), max_size=3)


@settings(max_examples=60, deadline=None)
@given(regions, any_text, st.integers(1, 40), st.integers(1, 40))
def test_any_parsed_verdict_can_be_asked_about(regions, reasoning, width, height):
    verdict = {"edit_region": regions, "reasoning": reasoning, "score": []}
    text = json.dumps(verdict, ensure_ascii=False)
    messages = messages_for([SOURCE, Image.new("RGBA", (width, height))], reasoning, "sc", parse(text, "sc"), text)
    assert images_in({"messages": messages})[1].size == (width, height)
    json.dumps(messages, ensure_ascii=False).encode()


def test_half_of_a_surrogate_pair_is_sent_as_a_mark(endpoint):
    assert run_judge(endpoint, [verdict_text().replace("cup", "\ud800")])[0] == [0.75]


def test_numbers_out_of_range_are_refused(endpoint):
    for wrong in ({"concurrency": 0}, {"deadline": 0}, {"retries": -1}):
        with pytest.raises(ValueError, match="judge: concurrency"):
            run_judge(endpoint, [verdict_text()], **wrong)


def test_a_recipe_can_name_it(endpoint):
    keywords = {"model": "m", "base_url": endpoint.base_url, "cache": None}
    (loaded,) = load_rewards([{"judge": keywords}])
    assert inspect.iscoroutinefunction(loaded) and loaded.__name__ == "judge"
    columns = {"completions": [PQ], "images": [[EDITED]], "instruction": ["x"], "task": ["pq"]}
    loop = asyncio.new_event_loop()  # as TRL does it: a loop on a thread of its own
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    for _ in range(2):
        assert asyncio.run_coroutine_threadsafe(loaded(**columns), loop).result(10) == [0.75]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
