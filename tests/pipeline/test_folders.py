"""Folders and fingerprints: never half of one, never the user's own, never reused for something else, one process at a time."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.fingerprint import hash_files, hash_model, is_finished, is_up_to_date, mark_finished, mark_started
from pipeline.folders import atomic_directory, require, require_finished, stage_lock, stage_output
from spatial_edit_reward.errors import UserError, one_line_errors
from tests.conftest import ROOT


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def foreign(tmp_path):
    """A folder of the user's, which no stage wrote."""
    folder = tmp_path / "mine"
    (folder / "photos").mkdir(parents=True)
    (folder / "photos" / "a.jpg").write_text("a year's work")
    (folder / "thesis.tex").write_text("x")
    return folder


def untouched(folder):
    return names(folder) == ["photos", "thesis.tex"] and (folder / "photos" / "a.jpg").read_text() == "a year's work"


def test_a_folder_appears_only_when_complete(tmp_path):
    target = tmp_path / "made"
    with pytest.raises(RuntimeError), atomic_directory(target) as partial:
        (partial / "half").write_text("x")
        assert not target.exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_directory(target) as partial:
        (partial / "all").write_text("x")
    assert (target / "all").exists() and names(tmp_path) == ["made"]


def test_a_stages_folder_is_replaced_when_the_new_one_is_complete(tmp_path):
    target = tmp_path / "data"
    target.mkdir()
    mark_finished(target, {})
    (target / "old").write_text("x")
    with pytest.raises(RuntimeError), atomic_directory(target):
        raise RuntimeError
    assert (target / "old").exists()
    with atomic_directory(target) as partial:
        assert (target / "old").exists()
        (partial / "new").write_text("x")
    assert names(target) == ["new"] and names(tmp_path) == ["data"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path, monkeypatch):
    target = tmp_path / "data"
    target.mkdir()
    mark_finished(target, {})
    rename = Path.rename

    def killed(path, to):
        if path.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt), atomic_directory(target) as partial:
        (partial / "new").write_text("x")
    monkeypatch.undo()
    assert names(tmp_path) == [".data.old"]
    with pytest.raises(RuntimeError), atomic_directory(target):
        raise RuntimeError
    assert is_finished(target) and names(tmp_path) == ["data"]


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_that_no_stage_wrote_is_never_touched(foreign, atomic, overwrite):
    with (
        pytest.raises(UserError, match=r"mine holds files of another origin.*nothing in it was touched") as error,
        stage_output(foreign, lambda: {"a": 1}, overwrite=overwrite, atomic=atomic),
    ):
        raise AssertionError("it was to be refused")
    assert "\n" not in str(error.value) and untouched(foreign) and names(foreign.parent) == ["mine"]
    with pytest.raises(UserError, match="of another origin"), atomic_directory(foreign):
        pass
    assert untouched(foreign) and names(foreign.parent) == ["mine"]


def test_a_fingerprint_of_another_program_does_not_make_a_folder_ours(foreign):
    (foreign / "fingerprint.json").write_text('{"sha": "1"}')
    with (
        pytest.raises(UserError, match=r"fingerprint\.json: cannot be read"),
        stage_output(foreign, dict, overwrite=True),
    ):
        pass
    assert (foreign / "photos" / "a.jpg").exists()


def test_an_empty_folder_and_one_within_a_stages_own_are_written(tmp_path):
    (tmp_path / "sft").mkdir()
    with stage_output(tmp_path / "sft", lambda: {"a": 1}, outputs=["merged"]) as output:
        for _ in range(2):
            with atomic_directory(output / "merged") as partial:
                (partial / "weights").write_text("x")
    assert is_finished(tmp_path / "sft") and names(tmp_path / "sft" / "merged") == ["weights"]


def test_overwrite_removes_all_of_a_stages_folder_or_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "sft"
    with stage_output(folder, lambda: {"a": 1}) as output:
        (output / "old").write_text("x")
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: (_ for _ in ()).throw(PermissionError(errno.EACCES, "denied")))
    with pytest.raises(UserError, match="sft: cannot be removed: denied"), stage_output(folder, dict, overwrite=True):
        pass
    monkeypatch.setattr(Path, "rename", rename)
    assert names(folder) == ["fingerprint.json", "old"]
    with stage_output(folder, lambda: {"a": 2}, overwrite=True) as output:
        assert names(output) == ["fingerprint.json"]
    assert names(tmp_path) == ["sft"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"), atomic_directory(tmp_path / "made"):
        pass


def test_a_folder_under_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"), atomic_directory(tmp_path / "file" / "made"):
        pass
    with pytest.raises(UserError, match="cannot be written"), stage_output(tmp_path / "file" / "made", dict):
        pass
    with pytest.raises(UserError, match="cannot be written"):
        mark_started(tmp_path / "file" / "made", {})


def test_finished_work_is_reused_and_other_work_refused(tmp_path, capsys):
    folder, fingerprint = tmp_path / "sft", {"recipe": {"lr": 1.0, "steps": 3}, "data": "abc"}
    assert not is_up_to_date(folder, fingerprint)
    mark_started(folder, fingerprint)
    assert not is_up_to_date(folder, fingerprint) and not is_finished(folder)
    with pytest.raises(UserError, match="sft is not finished: run 'make sft' first"):
        require_finished(folder, "sft")
    mark_finished(folder, fingerprint)
    require_finished(folder, "sft")
    assert is_up_to_date(folder, fingerprint) and is_finished(folder)
    assert "nothing to do" in capsys.readouterr().out
    changed = {**fingerprint, "recipe": {"lr": 2.0, "steps": 3}}
    with pytest.raises(UserError, match=r"recipe.lr: 1.0 -> 2.0.*OVERWRITE=1"):
        is_up_to_date(folder, changed)
    assert not is_up_to_date(folder, changed, rebuild=True) and "recipe.lr: 1.0 -> 2.0" in capsys.readouterr().out


def test_a_finished_stage_whose_output_is_gone_runs_again(tmp_path, capsys):
    folder = tmp_path / "sft"
    for run in range(2):
        with stage_output(folder, lambda: {"a": 1}, outputs=["adapter", "merged"]) as output:
            assert output == folder
            for name in ("adapter", "merged"):
                (folder / name).mkdir(exist_ok=True)
        assert is_finished(folder)
        with stage_output(folder, lambda: {"a": 1}, outputs=["adapter", "merged"]) as output:
            assert output is None
        if run == 0:
            (folder / "merged").rmdir()
            assert not is_finished(folder)
            with pytest.raises(UserError, match="run 'make sft'"):
                require_finished(folder, "sft")
            assert "merged is gone" not in capsys.readouterr().out
    assert "sft was finished, but merged is gone: made again" in capsys.readouterr().out


def test_an_atomic_output_is_finished_with_everything_in_it(tmp_path):
    for _ in range(2):
        with stage_output(tmp_path / "data", lambda: {"a": 1}, atomic=True) as output:
            assert output.name == ".data.partial"
            (output / "train.parquet").write_text("x")
        assert is_finished(tmp_path / "data")
        (tmp_path / "data" / "train.parquet").unlink()
        assert not is_finished(tmp_path / "data")


@pytest.mark.parametrize(
    ("atomic", "text"),
    [(False, "run the same command to continue"), (True, "nothing was kept: the same command starts over")],
)
def test_an_interrupted_stage_says_how_it_goes_on(tmp_path, atomic, text, capsys):
    @one_line_errors
    def stage():
        with stage_output(tmp_path / "stage", dict, atomic=atomic):
            raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        stage()
    assert end.value.code == 130 and capsys.readouterr().err == f"interrupted; {text}\n"
    assert (tmp_path / "stage").exists() != atomic


def test_an_interrupted_command_that_keeps_nothing_says_no_more(capsys):
    @one_line_errors
    def command():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        command()
    assert capsys.readouterr().err == "interrupted\n"


HOLD = """
import sys, time
from pathlib import Path
from pipeline.folders import stage_output
with stage_output(Path(sys.argv[1]), lambda: {"a": 1}):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_process_says_who_holds_the_stage_and_a_kill_lets_go(tmp_path):
    folder = tmp_path / "sft"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    try:
        assert first.stdout.readline() == "held\n"
        since = time.strftime("%Y-%m-%d")
        with (
            pytest.raises(UserError, match=rf"sft is being written by process {first.pid} on .+ since {since}"),
            stage_output(folder, lambda: {"a": 1}),
        ):
            pass
        first.send_signal(signal.SIGKILL)
        first.wait()
    finally:
        first.kill()
        first.stdout.close()
    with stage_output(folder, lambda: {"a": 1}) as output:
        assert output == folder
    assert names(tmp_path) == ["sft"]


def test_a_lock_is_let_go_of_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(RuntimeError), stage_lock(tmp_path / "report"):
            raise RuntimeError
    assert names(tmp_path) == []


def test_of_several_processes_the_main_one_holds_and_marks(tmp_path):
    folder = tmp_path / "sft"
    with stage_output(folder, lambda: {"a": 1}, on_main=lambda start: start()) as output:
        # another process of the same run: it gets the result of the main one, and neither waits nor marks
        with stage_output(folder, lambda: {"a": 1}, on_main=lambda start: {"a": 1}) as other:
            assert other == output
        assert not is_finished(folder)
    assert is_finished(folder)


def test_hashes_see_names_and_bytes(tmp_path):
    (tmp_path / "a").write_text("1")
    first = hash_files(tmp_path)
    (tmp_path / "a").write_text("2")
    second = hash_files(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, hash_files(tmp_path)}) == 3
    with pytest.raises(UserError, match="nothing: no such file"):
        hash_files(tmp_path / "nothing")


def test_what_is_written_about_a_checkpoint_does_not_change_it(tmp_path):
    (tmp_path / "model.safetensors").write_text("1")
    (tmp_path / "config.json").write_text("{}")
    before = hash_files(tmp_path), hash_model(str(tmp_path))
    for name in ("fingerprint.json", "export_report.json"):
        (tmp_path / name).write_text(json.dumps({"passed": True}))
    assert (hash_files(tmp_path), hash_model(str(tmp_path))) == before
    (tmp_path / "generation_config.json").write_text("{}")
    assert hash_files(tmp_path) != before[0] and hash_model(str(tmp_path)) != before[1]


def test_a_missing_stage_is_named(tmp_path):
    with pytest.raises(UserError, match="make sft"):
        require(tmp_path / "nothing", "sft")


def test_folders_named_like_copies_are_left_alone(tmp_path):
    copies = [tmp_path / "data.old", tmp_path / "data.partial"]
    for copy in copies:
        copy.mkdir()
        (copy / "mine.txt").write_text("x")
    for overwrite in (False, True):
        with stage_output(tmp_path / "data", lambda: {"a": 1}, atomic=True, overwrite=overwrite) as output:
            if output:
                (output / "train.parquet").write_text("x")
    with stage_output(tmp_path / "data", lambda: {"a": 1}, overwrite=True):
        pass
    assert all((copy / "mine.txt").exists() for copy in copies)


def test_a_folder_within_a_stage_is_not_the_stages_own(tmp_path):
    with stage_output(tmp_path / "sft", lambda: {"a": 1}, outputs=["merged"]) as output:
        (output / "merged").mkdir()
        (output / "notes").mkdir()
        (output / "notes" / "n.txt").write_text("x")
        with pytest.raises(UserError, match="another origin"), atomic_directory(output / "notes"):
            pass
        with atomic_directory(output / "merged") as partial:
            (partial / "model").write_text("x")
    assert (tmp_path / "sft" / "notes" / "n.txt").exists() and (tmp_path / "sft" / "merged" / "model").exists()


def test_half_of_the_first_fingerprint_is_no_foreign_file(tmp_path):
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "fingerprint.json.partial").write_text("{")
    with stage_output(tmp_path / "sft", lambda: {"a": 1}) as output:
        assert output
