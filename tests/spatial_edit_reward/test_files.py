"""JSON lines as they are written and read, and what differs between two files."""

import json

from spatial_edit_reward.files import differences, read_lines, write_json


def test_lines_are_split_at_line_feeds_alone(tmp_path):
    file = tmp_path / "verdicts.jsonl"
    lines = [{"id": i, "completion": f"one{separator}two"} for i, separator in enumerate("\u2028\u2029\u0085\x0b\x1c")]
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    assert read_lines(file) == lines


def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path):
    file = tmp_path / "verdicts.jsonl"
    assert read_lines(file) == []
    file.write_text('{"id": 1}\n{"id": 2')
    assert read_lines(file) == [{"id": 1}]
    assert file.read_text() == '{"id": 1}\n'


def test_differences_name_the_first_three_keys():
    old = {"a": {"b": 1, "c": [1]}, "d": 1, "e": 1, "f": 1}
    assert differences(old, old) == []
    assert differences(old, {**old, "a": {"b": 2, "c": [1]}}) == ["a.b: 1 -> 2"]
    assert differences(old, {}) == ["a: {'b': 1, 'c': [1]} -> None", "d: 1 -> None", "e: 1 -> None"]


def test_json_is_written_in_one_step(tmp_path):
    write_json(tmp_path / "a.json", {"text": "é", "path": tmp_path})
    assert json.loads((tmp_path / "a.json").read_text()) == {"text": "é", "path": str(tmp_path)}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
