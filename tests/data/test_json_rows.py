"""Rows of a JSON file: what is wrong with one is its own error, and what is wrong with the file is one line."""

import codecs
import gzip
import io
import json
import random

import pytest

from data.cleaning.fixer import RowError
from data.readers import json_rows
from data.readers.json_rows import elements, parse_row, read_json
from spatial_edit_reward.errors import UserError

ROWS = [{"id": 0}, {"id": 1, "text": 'a "b" [c] {d}, \\ \u2028 é'}, {"id": 2}]


def contents(file, text):
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [content for _, _, content in read_json(file)]


def test_an_array_and_lines_with_a_byte_order_mark_are_read(tmp_path):
    array, lines = json.dumps(ROWS, indent=2), "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    for text in (array, lines, f"\n {array}\n", f"\r\n{lines}\r\n", "[]", ""):
        expected = ROWS if "id" in text else []
        assert contents(tmp_path / "rows.json", text) == expected
        assert contents(tmp_path / "rows.json", codecs.BOM_UTF8 + text.encode()) == expected


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        ('{"score": NaN}', True),  # as Python and pandas write what is missing
        ('{"score": [1e999, -Infinity]}', True),
        ('{"id": 12345678901234567890123}', True),
        (f'{{"id": {"9" * 5000}}}', False),
        ('{"text": "half \\ud83d"}', True),
        ('{"text": "\\u0000"}', True),
        ('{"text": "\n"}', False),
        ('{"text": "a" "b"}', False),
        ('{"text": "a",}', False),
        ("{'text': 'a'}", False),
        (b'{"text": "\xff"}', False),
        (f"{'[' * 100_000}{']' * 100_000}", False),
        ("17", True),
        ("", False),
        ("see the other file", False),
    ],
)
def test_one_odd_row_of_an_array_leaves_the_others(tmp_path, row, kept):
    row = row if isinstance(row, bytes) else row.encode()
    first, odd, last = contents(tmp_path / "rows.json", b'[\n{"id": 0},\n' + row + b',\n{"id": 2}]')
    assert (first, last) == (ROWS[0], ROWS[2])
    assert isinstance(odd, RowError) != kept
    if not kept:
        assert odd.kind == "not_json" and len(odd.detail) < 200
        assert [location.split(", ")[1] for location, _, _ in read_json(tmp_path / "rows.json")] == [
            "row 1",
            "row 2",
            "row 3",
        ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(ROWS)[:-20], "breaks off after row 1"),
        (json.dumps(ROWS)[:-1], "breaks off after row 2"),
        ('[{"id": 0}, {"id": 1, "text": "it never ends}, {"id": 2}]', "breaks off after row 1"),
        (json.dumps(ROWS) + json.dumps(ROWS), "something follows its end"),
        ('{"id": 0}\n{"id": 1}\n{"id": 2, "text": "a down', "breaks off in line 3: download it again"),
        ("\n".join(json.dumps(row, indent=1) for row in ROWS), r"neither a JSON array nor JSON lines: .*jq"),
        (json.dumps({"data": ROWS}, indent=1), r"neither a JSON array nor JSON lines"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1f\n", "a git-lfs pointer"),
        (gzip.compress(json.dumps(ROWS).encode()), "not JSON but gzip"),
        (b"<html><body>Access denied</body></html>", "not JSON but a web page"),
        (bytes(5000), "not JSON but a file of zeros"),
        (json.dumps(ROWS).encode("utf-16"), "UTF-16: save it as UTF-8"),
    ],
)
def test_a_file_of_another_form_is_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=rf"rows\.json.*{message}"):
        contents(tmp_path / "rows.json", text)


def test_a_broken_first_line_is_one_row(tmp_path):
    odd, *others = contents(tmp_path / "rows.jsonl", '{"id": 0\n{"id": 1}\n{"id": 2}\n')
    assert isinstance(odd, RowError) and others == [{"id": 1}, {"id": 2}]


def test_rows_do_not_depend_on_where_the_file_is_cut_into_blocks(monkeypatch):
    rng = random.Random(0)

    def value(depth=0):
        kind = rng.randrange(8 if depth < 4 else 6)
        if kind == 6:
            return [value(depth + 1) for _ in range(rng.randrange(4))]
        if kind == 7:
            return {f'{number}"': value(depth + 1) for number in range(rng.randrange(4))}
        text = "".join(rng.choice('ab"\\[]{},\n\u2028é') for _ in range(rng.randrange(30)))
        return [None, rng.random(), rng.randrange(10**30), text, True, float("nan")][kind]

    for _ in range(100):
        rows = [value() for _ in range(rng.randrange(1, 6))]
        text = json.dumps(rows, indent=rng.choice((None, 1)), ensure_ascii=rng.random() < 0.5).encode()
        for block in (1, 2, 7, 1000):
            monkeypatch.setattr(json_rows, "BLOCK", block)
            assert repr([parse_row(one) for one in elements(io.BytesIO(text[1:]))]) == repr(rows)
            assert list(elements(io.BytesIO(text[1 : rng.randrange(1, len(text))])))[-1] is None


def test_a_bracket_that_never_closes_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "BLOCK", 1000)
    monkeypatch.setattr(json_rows, "MAX_ROW", 20_000)
    opened = io.BytesIO(b'{"id": [0}, ' + b'{"id": 1}, ' * 100_000 + b"]")
    assert list(elements(opened)) == [None] and opened.tell() < 30_000
