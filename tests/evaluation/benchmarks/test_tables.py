"""What is read, from which kind of copy, and the errors of a bad one."""

import codecs
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from evaluation.benchmarks.samples import plan_samples, read_samples
from evaluation.benchmarks.tables import read_json_lines
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


@pytest.mark.parametrize("outside", ["../secret.png", "{folder}/secret.png"])
def test_an_image_outside_of_a_copy_is_not_read(tmp_path, outside):
    """It could be sent to an endpoint."""
    (tmp_path / "copy").mkdir()
    for name in ("secret.png", "copy/source.png", "copy/good.png"):
        Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / name)
    edits = [outside.format(folder=tmp_path), "good.png"]
    row = {"key": ["a", "b"], "instruction": "Add a cup.", "task_type": "add", "dimension": "overall"}
    row |= {"input_image": "source.png", "output_images": edits}
    (tmp_path / "copy" / "rows.jsonl").write_text(json.dumps(row))
    plan = plan_samples(read_samples("editreward-bench", str(tmp_path / "copy")), SPEC, 0)
    assert len(plan.prompts) == 2 and "leaves" in plan.errors["0:overall a"]


def test_json_lines_with_a_byte_order_mark_are_read(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(codecs.BOM_UTF8 + '{"text": "a\u2028b"}\n\n{"id": 1}\n'.encode())
    assert read_json_lines(tmp_path / "rows.jsonl") == [{"text": "a\u2028b"}, {"id": 1}]
    (tmp_path / "rows.jsonl").write_text(f"{{}}\n{'[' * 100_000}\n")
    with pytest.raises(UserError, match="line 2: not JSON"):
        read_json_lines(tmp_path / "rows.jsonl")


def test_a_copy_without_a_split_or_a_shard_is_an_error(drawn, tmp_path):
    """Its figures would be those of a part of the benchmark, at full coverage."""
    complete = read_samples("merbench", str(drawn / "merbench"))
    shutil.copytree(drawn / "merbench", tmp_path / "copy")
    (tmp_path / "copy" / "data" / "4pair-00000-of-00001.parquet").unlink()
    with pytest.raises(UserError, match="copy: no file of 4pair in it: download it too"):
        read_samples("merbench", str(tmp_path / "copy"))
    (file,) = (tmp_path / "copy" / "data").glob("2pair*")
    assert {sample.id for sample in read_samples("merbench", str(file))} < {sample.id for sample in complete}
    shutil.copytree(drawn / "mmrb2", tmp_path / "mmrb2")
    file = tmp_path / "mmrb2" / "edit" / "test-00000-of-00001.parquet"
    file.rename(file.with_name("test-00000-of-00002.parquet"))
    with pytest.raises(UserError, match=r"test-00001-of-00002\.parquet is missing"):
        read_samples("mmrb2", str(tmp_path / "mmrb2"))


def test_a_gated_dataset_says_how_to_log_in(tmp_path):
    """As the Hub answers without a token for TIGER's benchmark."""

    class Gated(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(401)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("X-Error-Message", "Access to this dataset is restricted.")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815 - the name that the server looks for

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Gated) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code = "from evaluation.benchmarks.samples import read_samples; read_samples('tiger-editreward-bench', None)"
        offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"), "0")
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path), **offline}
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | hub, capture_output=True, text=True, timeout=120
        )
        server.shutdown()
    last = done.stderr.strip().splitlines()[-1]
    assert (
        done.returncode == 1 and "TIGER-Lab/EditReward-Bench" in last and "gated" in last and "`hf auth login`" in last
    )
