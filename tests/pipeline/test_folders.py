"""Folders and fingerprints: never half of one, never reused for something else."""

import os

import pytest

from pipeline.errors import UserError
from pipeline.fingerprint import already_made, begin, finish, finished, hash_files
from pipeline.folders import need, whole_folder


def test_a_folder_appears_only_when_whole(tmp_path):
    target = tmp_path / "made"
    with pytest.raises(RuntimeError), whole_folder(target) as partial:
        (partial / "half").write_text("x")
        assert not target.exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with whole_folder(target) as partial:
        (partial / "all").write_text("x")
    assert (target / "all").exists() and [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_place_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"), whole_folder(tmp_path / "made"):
        pass


def test_a_place_under_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"), whole_folder(tmp_path / "file" / "made"):
        pass
    with pytest.raises(UserError, match="cannot be written"):
        begin(tmp_path / "file" / "made", {})


def test_finished_work_is_reused_and_other_work_refused(tmp_path, capsys):
    folder, fingerprint = tmp_path / "sft", {"recipe": {"lr": 1.0, "steps": 3}, "data": "abc"}
    assert not already_made(folder, fingerprint, fresh=False)
    begin(folder, fingerprint)
    assert not already_made(folder, fingerprint, fresh=False) and not finished(folder)
    finish(folder, fingerprint)
    assert already_made(folder, fingerprint, fresh=False) and finished(folder)
    assert "nothing to do" in capsys.readouterr().out
    changed = {**fingerprint, "recipe": {"lr": 2.0, "steps": 3}}
    with pytest.raises(UserError, match=r"recipe.lr: 1.0 -> 2.0.*FRESH=1"):
        already_made(folder, changed, fresh=False)
    assert not already_made(folder, changed, fresh=True) and not folder.exists()


def test_hashes_see_names_and_bytes(tmp_path):
    (tmp_path / "a").write_text("1")
    first = hash_files(tmp_path)
    (tmp_path / "a").write_text("2")
    second = hash_files(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, hash_files(tmp_path)}) == 3


def test_a_missing_stage_is_named(tmp_path):
    with pytest.raises(UserError, match="make sft"):
        need(tmp_path / "nothing", "sft")
