"""JSON files as they are written, and what differs between two."""

import json
import os

import pytest

from spatial_edit_reward import files
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


def test_two_writers_of_a_json_file_do_not_meet(tmp_path, monkeypatch):
    file, replace = tmp_path / "a.json", os.replace

    def after_another(*paths):
        monkeypatch.setattr(files.os, "replace", replace)
        write_json(file, "the other's")
        assert json.loads(file.read_text()) == "the other's"
        replace(*paths)

    monkeypatch.setattr(files.os, "replace", after_another)
    write_json(file, "the last one's")
    assert json.loads(file.read_text()) == "the last one's"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_json(tmp_path / "folder", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "folder"]
