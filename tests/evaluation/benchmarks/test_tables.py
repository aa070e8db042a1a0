"""What is read, from which kind of copy, and the errors of a bad one."""

import json

import pytest
from PIL import Image

from evaluation.benchmarks.samples import plan_samples, read_samples
from spatial_edit_reward.errors import UserError
from tests.evaluation.benchmarks.runs import SPEC


def test_a_missing_column_is_named(drawn, tmp_path):
    from datasets import Dataset

    rows = Dataset.from_parquet(str(drawn / "mmrb2" / "edit" / "test-00000-of-00001.parquet"))
    rows.remove_columns(["chosen"]).to_parquet(str(tmp_path / "edit.parquet"))
    with pytest.raises(UserError, match="no column 'chosen'"):
        read_samples("mmrb2", str(tmp_path))
    with pytest.raises(UserError, match="no such file or folder"):
        read_samples("mmrb2", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no Parquet"):
        (tmp_path / "empty").mkdir()
        read_samples("mmrb2", str(tmp_path / "empty"))


def test_a_copy_of_json_lines_with_missing_and_broken_images(tmp_path):
    image = Image.effect_noise((64, 64), 50).convert("RGB")
    for name in ("source", "good", "better"):
        image.save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    row = {"key": ["a", "b"], "instruction": "Add a cup.", "input_image": "source.png", "task_type": "add"}
    pairs = (["better.png", "good.png"], ["better.png", "gone.png"], ["broken.png", "good.png"])
    lines = [row | {"dimension": "overall", "output_images": pair} for pair in pairs]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plan = plan_samples(read_samples("editreward-bench", str(tmp_path)), SPEC, 0)
    sent = [name for name in plan.names(1) if plan.request(name) is not None]
    assert len(plan.prompts) == 4 and len(sent) == 2  # better and good have the same pixels: one `sc`, one `pq`
    failures = plan.failures({name: {} for name in sent}, 1)
    assert (
        len(failures) == 2
        and "1:overall b" in failures[0]
        and "gone.png" in failures[0]
        and failures[1].startswith("2:overall a")
    )
    with pytest.raises(UserError, match="line 4: not JSON"):
        (tmp_path / "rows.jsonl").open("a").write("{")
        read_samples("editreward-bench", str(tmp_path))
