"""Folders and fingerprints: never half of one, never reused for something else."""

import os

import pytest

from pipeline.fingerprint import hash_files, is_finished, is_up_to_date, mark_finished, mark_started
from pipeline.folders import atomic_directory, require
from spatial_edit_reward.errors import UserError


def test_a_folder_appears_only_when_whole(tmp_path):
    target = tmp_path / "made"
    with pytest.raises(RuntimeError), atomic_directory(target) as partial:
        (partial / "half").write_text("x")
        assert not target.exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_directory(target) as partial:
        (partial / "all").write_text("x")
    assert (target / "all").exists() and [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_place_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"), atomic_directory(tmp_path / "made"):
        pass


def test_a_place_under_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"), atomic_directory(tmp_path / "file" / "made"):
        pass
    with pytest.raises(UserError, match="cannot be written"):
        mark_started(tmp_path / "file" / "made", {})


def test_finished_work_is_reused_and_other_work_refused(tmp_path, capsys):
    folder, fingerprint = tmp_path / "sft", {"recipe": {"lr": 1.0, "steps": 3}, "data": "abc"}
    assert not is_up_to_date(folder, fingerprint, overwrite=False)
    mark_started(folder, fingerprint)
    assert not is_up_to_date(folder, fingerprint, overwrite=False) and not is_finished(folder)
    mark_finished(folder, fingerprint)
    assert is_up_to_date(folder, fingerprint, overwrite=False) and is_finished(folder)
    assert "nothing to do" in capsys.readouterr().out
    changed = {**fingerprint, "recipe": {"lr": 2.0, "steps": 3}}
    with pytest.raises(UserError, match=r"recipe.lr: 1.0 -> 2.0.*OVERWRITE=1"):
        is_up_to_date(folder, changed, overwrite=False)
    assert not is_up_to_date(folder, changed, overwrite=True) and not folder.exists()


def test_hashes_see_names_and_bytes(tmp_path):
    (tmp_path / "a").write_text("1")
    first = hash_files(tmp_path)
    (tmp_path / "a").write_text("2")
    second = hash_files(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, hash_files(tmp_path)}) == 3


def test_a_missing_stage_is_named(tmp_path):
    with pytest.raises(UserError, match="make sft"):
        require(tmp_path / "nothing", "sft")
