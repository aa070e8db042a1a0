"""JSON files as they are written, and what differs between two."""

import json

from spatial_edit_reward.files import differences, write_json


def test_differences_name_the_first_three_keys():
    old = {"a": {"b": 1, "c": [1]}, "d": 1, "e": 1, "f": 1}
    assert differences(old, old) == []
    assert differences(old, {**old, "a": {"b": 2, "c": [1]}}) == ["a.b: 1 -> 2"]
    assert differences(old, {}) == ["a: {'b': 1, 'c': [1]} -> None", "d: 1 -> None", "e: 1 -> None"]


def test_json_is_written_in_one_step(tmp_path):
    write_json(tmp_path / "a.json", {"text": "é", "path": tmp_path})
    assert json.loads((tmp_path / "a.json").read_text()) == {"text": "é", "path": str(tmp_path)}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
