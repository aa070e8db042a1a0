"""Rows are read where they lie: the same as `datasets` reads, from any process, with little memory and no copy on disk."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from spatial_edit_reward import load_spec
from spatial_edit_reward.errors import UserError
from tests.conftest import ROOT, quiet


def test_rows_are_those_of_the_file_whole_in_part_and_elsewhere(small_data, tmp_path):
    from datasets import Dataset

    from data.rows import features, load_rows

    rows = load_rows(small_data / "train.parquet", load_spec(small_data))
    plain = list(Dataset.from_parquet(str(small_data / "train.parquet"), features=features()))
    assert list(rows) == plain and rows[-1] == plain[-1]
    assert [row | {"images": len(row["images"])} for row in rows.texts()] == [
        row | {"images": len(row["images"])} for row in plain
    ]
    chosen = rows.select([3, 4, 40]).select([0, 2])
    assert list(chosen) == [plain[3], plain[40]] and [row["id"] for row in chosen.texts()] == [
        plain[3]["id"],
        plain[40]["id"],
    ]
    assert list(chosen.images(2)) == [plain[3]["images"]] * 2 + [plain[40]["images"]] * 2
    assert list(pickle.loads(pickle.dumps(chosen))) == list(chosen)
    chosen.write(tmp_path / "chosen.parquet")
    assert list(load_rows(tmp_path / "chosen.parquet", load_spec(small_data))) == list(chosen)
    assert list(rows.select([]).texts()) == []
    with pytest.raises(IndexError):
        rows[len(rows)]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read_the_rows_in_any_order(small_data, start):
    from torch.utils.data import DataLoader

    from data.rows import for_training, load_rows

    spec = load_spec(small_data)
    rows = for_training(load_rows(small_data / "train.parquet", spec), spec, completions=True)
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    ids = [rows[index]["id"] for index in order]  # the parent has the file open as the workers start
    loader = DataLoader(
        rows, batch_size=8, sampler=order, num_workers=2, collate_fn=list, multiprocessing_context=start
    )
    assert [row["id"] for batch in loader for row in batch] == ids


def test_row_groups_too_large_to_read_for_one_row_are_refused(small_data, monkeypatch):
    import data.stored_rows
    from data.rows import load_rows

    monkeypatch.setattr(data.stored_rows, "LARGEST_GROUP", 10_000)
    with pytest.raises(UserError, match=r"train\.parquet: a row group of over"):
        load_rows(small_data / "train.parquet", load_spec(small_data))


READ = """
import sys, random, pathlib
from data.rows import for_training, load_rows
from spatial_edit_reward import Spec
from tools.bench.rows_memory import anonymous_memory

spec = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=320)
before = anonymous_memory()
rows = for_training(load_rows(pathlib.Path(sys.argv[1]), spec), spec, completions=True)
for _ in range(30):
    assert len(rows[random.randrange(len(rows))]["images"]) == 2
print(anonymous_memory() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_rows_and_nothing_is_copied(tmp_path):
    from tools.bench.rows_memory import write_rows

    extra = {}
    for count in (100, 2000):
        write_rows(tmp_path / f"{count}.parquet", count)
        environment = quiet() | {"HF_HOME": str(tmp_path / "hf")}
        command = [sys.executable, "-c", READ, str(tmp_path / f"{count}.parquet")]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        extra[count] = int(done.stdout)
    assert extra[2000] < extra[100] + 40e6 and extra[2000] < 200e6
    assert not any(file.stat().st_size > 1e6 for file in (tmp_path / "hf").rglob("*"))


def test_the_fingerprint_of_rows_knows_every_text_and_the_sizes_of_images(small_data, tmp_path):
    import pyarrow
    from pyarrow import parquet

    from pipeline.fingerprint import hash_rows

    table = parquet.read_table(small_data / "train.parquet")
    rows = table.to_pylist()

    def fingerprint(row):
        changed = pyarrow.Table.from_pylist([*rows[:30], row, *rows[31:]], table.schema)
        parquet.write_table(changed, tmp_path / "rows.parquet", use_dictionary=False, row_group_size=32)
        return hash_rows(tmp_path / "rows.parquet")

    row = rows[30]
    before = fingerprint(row)
    assert fingerprint(row) == before
    scored = row["reference"] | {"score": [1.0, 2.0]}
    longer = {"bytes": row["images"][0]["bytes"] + b" ", "path": None}
    others = [
        {"instruction": row["instruction"][:-3] + "#" + row["instruction"][-2:]},
        {"reference": scored},
        {"images": [longer, *row["images"][1:]]},
    ]
    assert len({before, *(fingerprint(row | other) for other in others)}) == 4
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match=r"rows\.parquet: not a Parquet file"):
        hash_rows(tmp_path / "rows.parquet")
