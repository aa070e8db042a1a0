"""Rows written for other frameworks: read again they are the same, and what is in the folder already stays."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data import writers
from data.readers import READERS
from data.recipe import Source
from spatial_edit_reward import load_spec
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.images import read_image
from tests.conftest import ROOT, quiet
from tests.data.conftest import run_module


def read(file):
    source = Source(name="s", layout="sharegpt", path=str(file), splits={"train": 1})
    return list(READERS["sharegpt"].rows(source))


def content(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def write(small_data, folder, framework="llamafactory", split="validation"):
    return run_module(
        "data.writers", str(small_data / f"{split}.parquet"), "--format", framework, "--output_dir", str(folder)
    )


@pytest.mark.parametrize("framework", ["llamafactory", "ms-swift"])
def test_written_rows_come_back(small_data, tmp_path, framework):
    from datasets import load_dataset

    from data.rows import load_rows

    spec = load_spec(small_data)
    rows = load_rows(small_data / "validation.parquet", spec)
    done = write(small_data, tmp_path / "out", framework)
    assert done.returncode == 0 and f"8 rows in {tmp_path / 'out' / 'data.jsonl'}, 0 without" in done.stdout
    raws = read(tmp_path / "out" / "data.jsonl")
    assert len(rows) == 8 and [raw.id for raw in raws] == [row["id"] for row in rows.texts()]
    for raw, row in zip(raws, rows, strict=True):
        assert (raw.task, raw.instruction, raw.group) == (row["task"], row["instruction"], row["group"])
        assert raw.prompt == spec.prompt(row["task"], row["instruction"])
        assert [read_image(image)[0].tobytes() for image in raw.images] == [image.tobytes() for image in row["images"]]
        assert json.loads(raw.verdict)["score"] == row["reference"]["score"]
    if framework == "llamafactory":
        info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())["spatial_edit_reward"]
        loaded = load_dataset("json", data_files=str(tmp_path / "out" / info["file_name"]), split="train")
        assert set(info["columns"].values()) <= set(loaded.column_names)
        turns = loaded[0][info["columns"]["messages"]]
        assert [turn["from"] for turn in turns] == ["human", "gpt"]
        assert turns[0]["value"].count("<image>") == len(loaded[0][info["columns"]["images"]])
    assert not [path for path in (tmp_path / "out").iterdir() if "partial" in path.name]


@pytest.mark.parametrize("framework", ["llamafactory", "ms-swift"])
def test_the_prompt_has_as_many_placeholders_as_the_row_has_images(small_data, framework):
    """One <image> too many, in an instruction or a verdict, ends a run of LLaMA-Factory."""
    reference = {"edit_region": [], "reasoning": "<|global|> the <image> is <video>.<|im_end|>", "score": [1.0, 2.0]}
    row = {
        "id": "a",
        "task": "sc",
        "instruction": "Put <image> of <|image_pad|> on it.",
        "group": None,
        "images": [1, 2],
    }
    made = writers.framework_row(row | {"reference": reference}, ["a", "b"], load_spec(small_data), framework)
    prompt, verdict = (
        turn.get("content", turn.get("value")) for turn in made.get("messages", made.get("conversations"))
    )
    assert prompt.startswith("<image><image>") and prompt.endswith("Put < image > of <| image_pad |> on it.")
    assert (
        prompt.count("<image>") == 2
        and json.loads(verdict)["reasoning"] == "<|global|> the < image > is < video >.<| im_end |>"
    )


@pytest.fixture
def others(tmp_path):
    """LLaMA-Factory's `data/` with a set of the user's in it."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "my_set.json").write_text("[]")
    (folder / "images" / "mine.png").write_bytes(b"mine")
    (folder / "dataset_info.json").write_text('{"my_set": {"file_name": "my_set.json"}}')
    return folder


def test_what_is_in_the_folder_stays(small_data, others):
    before = content(others)
    assert write(small_data, others).returncode == 0
    after = content(others)
    info = others / "dataset_info.json"
    changed = {name for name, was in before.items() if after[name] != was}
    assert {others / name for name in changed} == {info}
    assert list(json.loads(info.read_text())) == ["my_set", "spatial_edit_reward"]
    assert json.loads(info.read_text())["my_set"] == {"file_name": "my_set.json"}
    assert len(read(others / "data.jsonl")) == 8


@pytest.mark.parametrize("name", ["data.jsonl", "images/0_1.png", "dataset_info.json"])
def test_nothing_is_overwritten(small_data, others, name):
    (others / name).write_text('{"spatial_edit_reward": {"file_name": "earlier.json"}}')
    before = content(others)
    done = write(small_data, others)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith(f"error: {others / name}") and "already" in last
    assert content(others) == before and not [path for path in others.iterdir() if "partial" in path.name]


@pytest.mark.parametrize("failing", [3, "dataset_info.json"])
def test_a_failure_between_the_moves_undoes_them(small_data, others, monkeypatch, failing):
    before, rename, replace, calls = content(others), os.rename, os.replace, []

    def full(*paths):
        target = Path(paths[1])
        calls.extend([target] if target.is_relative_to(others) else [])
        if target.is_relative_to(others) and failing in (len(calls), target.name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        (rename if failing == 3 else replace)(*paths)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename" if failing == 3 else "replace", full)
        with pytest.raises(OSError, match="No space left"):
            writers.write(small_data / "validation.parquet", load_spec(small_data), "llamafactory", others)
    assert content(others) == before and not [path for path in others.iterdir() if "partial" in path.name]
    assert write(small_data, others).returncode == 0


def test_what_a_killed_run_left_is_named(small_data, others):
    code = """
import os, signal, sys
from pathlib import Path
from data.writers import write
from spatial_edit_reward import load_spec
rename, moved = os.rename, []
def then_killed(*paths):
    rename(*paths)
    moved.append(paths)
    if len(moved) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
os.rename = then_killed
data = Path(sys.argv[1])
write(data / "validation.parquet", load_spec(data), "llamafactory", Path(sys.argv[2]))
"""
    before = content(others)
    killed = subprocess.run([sys.executable, "-c", code, str(small_data), str(others)], cwd=ROOT, env=quiet())
    assert killed.returncode == -signal.SIGKILL
    (partial,) = others.glob(".partial-*")
    left = sorted(file for file in others.rglob("*.*") if file.is_file() and file.relative_to(others) not in before)
    left = [str(file.relative_to(others)) for file in left if partial not in file.parents]
    assert len(left) == 3
    last = write(small_data, others).stderr.strip().splitlines()[-1]
    assert f"delete what it left: {partial.name} and {left[0]} to {left[2]} (3 of the names to write)" in last
    shutil.rmtree(partial)
    for name in left:
        (others / name).unlink()
    assert write(small_data, others).returncode == 0


@pytest.mark.parametrize("text", ["not JSON", "[]"])
def test_a_dataset_info_that_is_none_is_named(small_data, others, text):
    (others / "dataset_info.json").write_text(text)
    before = content(others)
    done = write(small_data, others)
    assert done.returncode == 1 and "dataset_info.json: " in done.stderr.strip().splitlines()[-1]
    assert content(others) == before


def test_rows_without_a_complete_verdict_are_counted(small_data, tmp_path):
    from datasets import Dataset

    from data.rows import features

    rows = Dataset.from_parquet(str(small_data / "validation.parquet"), features=features())

    def without_reasoning(reference, index):
        return {"reference": {**reference, "reasoning": reference["reasoning"] if index % 4 else None}}

    changed = rows.map(without_reasoning, input_columns=["reference"], with_indices=True, features=features())
    changed.to_parquet(str(tmp_path / "rows.parquet"))
    (tmp_path / "verdict.json").write_bytes((small_data / "verdict.json").read_bytes())
    done = run_module(
        *("data.writers", str(tmp_path / "rows.parquet"), "--format", "ms-swift", "--output_dir", str(tmp_path / "out"))
    )
    assert "6 rows in" in done.stdout and "2 without a complete verdict left out" in done.stdout
    assert [raw.id for raw in read(tmp_path / "out" / "data.jsonl")] == [
        name for index, name in enumerate(rows["id"]) if index % 4
    ]
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "gone.jsonl")
