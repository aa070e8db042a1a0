"""Result files with real processes: killed runs go on, two share the work, nothing is asked twice, half lines do no harm."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.request import Request, Response
from spatial_edit_reward.inference.store import ask_all, read_head, read_verdicts, start
from tests.conftest import ROOT, quiet
from tests.evaluation.benchmarks.asker import HEAD

COUNT = 200


def asker(folder, seconds):
    command = [
        sys.executable,
        "-m",
        "tests.evaluation.benchmarks.asker",
        folder / "verdicts.jsonl",
        folder / "log",
        COUNT,
        seconds,
    ]
    return subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env=quiet(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def asked(folder):
    return Counter((folder / "log").read_text().split())


def given(folder):
    """Key -> number of whole lines about it."""
    lines = (folder / "verdicts.jsonl").read_text().splitlines()[1:]
    return Counter(json.loads(line)["key"] for line in lines if line.endswith("}"))


def wait_for(folder, verdicts):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if (folder / "verdicts.jsonl").exists() and len(
            (folder / "verdicts.jsonl").read_text().splitlines()
        ) > verdicts:
            return
        time.sleep(0.02)
    raise AssertionError("no verdicts came")


def test_a_killed_run_goes_on_without_repeating_what_was_answered(tmp_path):
    first = asker(tmp_path, 0.02)
    wait_for(tmp_path, 30)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before, answered = asked(tmp_path), set(given(tmp_path))
    assert 30 <= len(answered) < COUNT
    assert asker(tmp_path, 0).wait(60) == 0
    repeated = {key for key, times in asked(tmp_path).items() if times > 1}
    assert repeated <= set(before) - answered and len(repeated) <= 1  # the one under way at most
    assert given(tmp_path) == Counter(f"key{number}" for number in range(COUNT))


def test_two_processes_share_the_work_and_one_takes_over_when_the_other_dies(tmp_path):
    one, other = asker(tmp_path, 0.02), asker(tmp_path, 0.02)
    wait_for(tmp_path, 80)
    one.send_signal(signal.SIGKILL)
    one.wait()
    assert other.wait(60) == 0
    assert given(tmp_path) == Counter(f"key{number}" for number in range(COUNT))
    writers = {line["text"].rsplit(" ", 1)[1] for line in read_verdicts(tmp_path / "verdicts.jsonl").values()}
    assert writers == {str(one.pid), str(other.pid)}
    assert sum(asked(tmp_path).values()) <= COUNT + 1


def test_half_a_line_is_left_out_and_asked_again(tmp_path):
    file = tmp_path / "verdicts.jsonl"
    names = [(f"key{number}", 0) for number in range(3)]
    seen = []

    def ask(questions):
        for question in questions:
            seen.append(question.key)
            yield question, Response("ä" * 40, True)

    def question(name):
        return Request(name[0], "pq", "x", [], name[1])

    start(file, HEAD, False)
    ask_all(file, names, question, ask, 8, "asked")
    content = file.read_bytes()
    file.write_bytes(content[:-30])  # within a character of two bytes, too
    assert len(read_verdicts(file)) == 2
    ask_all(file, names, question, ask, 8, "asked")
    assert seen == ["key0", "key1", "key2", "key2"]
    found = read_verdicts(file)
    assert set(found) == set(names) and all(line["text"] == "ä" * 40 and line["truncated"] for line in found.values())
    assert read_head(file) == HEAD


def test_what_cannot_be_asked_or_answered_stays_missing(tmp_path):
    file = tmp_path / "verdicts.jsonl"
    start(file, HEAD, False)
    names = [(f"key{number}", sample) for number in range(4) for sample in range(2)]

    def question(name):
        return None if name[0] == "key1" else Request(name[0], "pq", "x", [], name[1])

    def ask(questions):
        yield from ((one, Response("yes", False)) for one in reversed(questions) if one.key != "key2")

    ask_all(file, names, question, ask, 3, "asked")
    assert set(read_verdicts(file)) == {("key0", 0), ("key0", 1), ("key3", 0), ("key3", 1)}


def test_other_work_is_not_continued(tmp_path):
    file = tmp_path / "verdicts.jsonl"
    start(file, HEAD | {"model": "none was asked yet"}, False)
    start(file, HEAD | {"model": "a"}, False)
    ask_all(
        file,
        [("key", 0)],
        lambda name: Request(name[0], "pq", "x", [], 0),
        lambda questions: ((one, Response("yes", False)) for one in questions),
        8,
        "asked",
    )
    with pytest.raises(UserError, match=r"something else \(model: 'a' -> 'b'\): OVERWRITE=1"):
        start(file, HEAD | {"model": "b"}, False)
    start(file, HEAD | {"model": "b"}, True)
    assert read_head(file)["model"] == "b"
    (tmp_path / "other").write_text("no\n")
    with pytest.raises(UserError, match="not a result file"):
        read_head(tmp_path / "other")
