"""The store with real processes: killed runs go on, two share the work, nothing is sent twice, half lines do no harm."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference import store
from spatial_edit_reward.inference.request import Request, Response
from spatial_edit_reward.inference.store import create, generate_missing, read_header, read_responses
from tests.conftest import ROOT, quiet
from tests.spatial_edit_reward.inference.store_writer import HEADER

COUNT = 200
MODULE = "tests.spatial_edit_reward.inference.store_writer"


def writer(folder, seconds):
    arguments = [folder / "responses.jsonl", folder / "log", COUNT, seconds]
    command = [sys.executable, "-m", MODULE, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=quiet(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def sent(folder):
    return Counter((folder / "log").read_text().split())


def stored(folder):
    """Key -> number of whole lines with it."""
    lines = (folder / "responses.jsonl").read_text().split("\n")[1:]
    return Counter(json.loads(line)["key"] for line in lines if line.endswith("}"))


def wait_for(folder, count):
    file, until = folder / "responses.jsonl", time.monotonic() + 60
    while time.monotonic() < until:
        if file.exists() and file.read_text().count("\n") > count:
            return
        time.sleep(0.02)
    raise AssertionError("no responses came")


def make_request(name):
    return Request(name[0], "pq", "x", [], name[1])


def test_a_killed_run_goes_on_without_repeating_what_is_stored(tmp_path):
    first = writer(tmp_path, 0.02)
    wait_for(tmp_path, 30)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before, answered = sent(tmp_path), set(stored(tmp_path))
    assert 30 <= len(answered) < COUNT
    assert writer(tmp_path, 0).wait(60) == 0
    repeated = {key for key, times in sent(tmp_path).items() if times > 1}
    assert repeated <= set(before) - answered and len(repeated) <= 1  # the one under way at most
    assert stored(tmp_path) == Counter(f"key{number}" for number in range(COUNT))


def test_two_processes_share_the_work_and_one_takes_over_when_the_other_dies(tmp_path):
    one, other = writer(tmp_path, 0.02), writer(tmp_path, 0.02)
    wait_for(tmp_path, 80)
    one.send_signal(signal.SIGKILL)
    one.wait()
    assert other.wait(60) == 0
    assert stored(tmp_path) == Counter(f"key{number}" for number in range(COUNT))
    writers = {line["text"].rsplit(" ", 1)[1] for line in read_responses(tmp_path / "responses.jsonl").values()}
    assert writers == {str(one.pid), str(other.pid)}
    assert sum(sent(tmp_path).values()) <= COUNT + 1


def test_no_shard_is_waited_for_while_requests_are_in_flight(tmp_path):
    """Another process holds two shards, and lets go of the second one when the first one's requests are answered."""
    file, calls = tmp_path / "responses.jsonl", []
    create(file, HEADER)
    names = [(f"key{number}", 0) for number in range(192)]
    holds, answered = threading.Event(), [threading.Event() for _ in range(3)]

    def hold():
        with store._lock(file, "128"):
            with store._lock(file, "64"):
                holds.set()
                answered[0].wait(5)
            answered[1].wait(2)

    def backend(requests):
        calls.append([])
        for request in requests:
            calls[-1].append((request.key, 0))
            yield request, Response("yes", False)
        answered[len(calls) - 1].set()

    other = threading.Thread(target=hold)
    other.start()
    holds.wait(5)
    generate_missing(file, names, make_request, backend, 8, "asked")
    other.join()
    assert calls == [names[:64], names[64:128], names[128:]] and set(read_responses(file)) == set(names)


def test_half_a_line_is_left_out_and_sent_again(tmp_path):
    file = tmp_path / "responses.jsonl"
    names = [(f"key{number}", 0) for number in range(3)]
    keys = []

    def backend(requests):
        for request in requests:
            keys.append(request.key)
            yield request, Response("ä" * 40, True)

    create(file, HEADER)
    generate_missing(file, names, make_request, backend, 8, "asked")
    content = file.read_bytes()
    file.write_bytes(content[:-30])
    assert len(read_responses(file)) == 2
    generate_missing(file, names, make_request, backend, 8, "asked")
    assert keys == ["key0", "key1", "key2", "key2"]
    lines = read_responses(file)
    assert set(lines) == set(names) and all(line["text"] == "ä" * 40 and line["truncated"] for line in lines.values())
    assert read_header(file) == HEADER
    # Cut within a character of two bytes, as a file of an earlier version can be, and right before the line feed.
    raw = json.dumps({"key": "key1", "sample": 0, "text": "ä"}, ensure_ascii=False).encode()
    for end in (raw.index("ä".encode()) + 1, len(raw)):
        file.write_bytes(content[: content.index(b'{"key": "key1"')] + raw[:end])
        assert len(read_responses(file)) == 1
        generate_missing(file, names, make_request, backend, 8, "asked")
        assert set(read_responses(file)) == set(names) and file.read_bytes().count(b"\n") == 4


def test_lines_end_with_a_line_feed_alone_and_half_a_surrogate_pair_is_kept(tmp_path):
    file = tmp_path / "responses.jsonl"
    texts = {
        "a": "line\u2028separator",
        "b": "paragraph\u2029separator",
        "c": "next\u0085line\r\x0b\x0c\x1c",
        "d": "\ud83d",
    }
    create(file, HEADER | {"prompt": "\u2028"})
    names = [(key, 0) for key in texts]
    for _ in range(2):  # the second time it is read
        backend = lambda requests: ((one, Response(texts[one.key], False)) for one in requests)  # noqa: E731
        generate_missing(file, names, make_request, backend, 8, "asked")
    # Lines of an earlier version hold such characters as they are.
    with file.open("a", newline="") as out:
        out.write(json.dumps({"key": "e", "sample": 0, "text": texts["a"]}, ensure_ascii=False) + "\n")
    assert {key: line["text"] for (key, _), line in read_responses(file).items()} == texts | {"e": texts["a"]}
    assert read_header(file)["prompt"] == "\u2028" and file.read_bytes().count(b"\n") == 6


def test_what_has_no_request_or_no_response_stays_missing(tmp_path):
    file = tmp_path / "responses.jsonl"
    create(file, HEADER)
    names = [(f"key{number}", sample) for number in range(4) for sample in range(2)]

    def backend(requests):
        yield from ((one, Response("yes", False)) for one in reversed(list(requests)) if one.key != "key2")

    generate_missing(file, names, lambda name: None if name[0] == "key1" else make_request(name), backend, 3, "asked")
    assert set(read_responses(file)) == {("key0", 0), ("key0", 1), ("key3", 0), ("key3", 1)}


def test_requests_are_made_as_the_backend_takes_them_and_none_where_nothing_is_missing(tmp_path):
    file = tmp_path / "responses.jsonl"
    create(file, HEADER)
    names, made, ahead = [(f"key{number}", 0) for number in range(600)], [], []

    def backend(requests):
        for count, request in enumerate(requests, 1):
            ahead.append(len(made) - count)
            yield request, Response("yes", False)

    generate_missing(file, names, lambda name: made.append(name) or make_request(name), backend, 64, "asked")
    assert made == names and set(ahead) == {0}
    generate_missing(file, names, lambda name: 1 / 0, lambda requests: 1 / 0, 64, "asked")


def test_a_full_disk_is_one_line_and_the_same_call_goes_on(tmp_path, monkeypatch):
    file = tmp_path / "responses.jsonl"
    create(file, HEADER)
    names = [(f"key{number}", 0) for number in range(4)]
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(store.os, "fsync", full)
    backend = lambda requests: ((one, Response("yes", False)) for one in requests)  # noqa: E731
    with pytest.raises(UserError, match=r"responses.jsonl: No space left on device; .* run the same command"):
        generate_missing(file, names, make_request, backend, 1, "asked")
    assert len(read_responses(file)) == 2
    generate_missing(file, names, make_request, backend, 1, "asked")
    assert set(read_responses(file)) == set(names)
    with pytest.raises(UserError, match="No such file"):
        read_responses(tmp_path / "none")


def test_a_backends_own_errors_are_not_the_stores(tmp_path):
    file = tmp_path / "responses.jsonl"
    create(file, HEADER)

    def backend(requests):
        yield from ()
        raise FileNotFoundError("the model's")

    with pytest.raises(FileNotFoundError, match="the model's"):
        generate_missing(file, [("a", 0)], make_request, backend, 1, "asked")


def test_other_work_is_not_continued(tmp_path):
    file = tmp_path / "responses.jsonl"
    create(file, HEADER | {"model": "none was asked yet"})
    create(file, HEADER | {"model": "a"})
    backend = lambda requests: ((one, Response("yes", False)) for one in requests)  # noqa: E731
    generate_missing(file, [("key", 0)], make_request, backend, 8, "asked")
    with pytest.raises(UserError, match=r"something else \(model: 'a' -> 'b'\): OVERWRITE=1"):
        create(file, HEADER | {"model": "b"})
    create(file, HEADER | {"model": "b"}, overwrite=True)
    assert read_header(file)["model"] == "b"
    (tmp_path / "other").write_text("no\n")
    with pytest.raises(UserError, match="not a file of responses"):
        read_header(tmp_path / "other")
