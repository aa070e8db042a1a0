"""The backend `vllm` of evaluation, mining and benchmarks, with a real vLLM: it answers as the backend `transformers` does."""

import json

import pytest

from tests.conftest import BASE

pytestmark = pytest.mark.slow


def test_vllm_answers_as_transformers_does(run_with_vllm, small_data, tmp_path):
    from tests.vllm_cpu.answers import greedy_answers

    policy = tmp_path / "policy"
    policy.mkdir()
    for file in [*BASE.iterdir(), small_data / "verdict.json"]:
        (policy / file.name).write_bytes(file.read_bytes())
    rows, output = small_data / "heldout.parquet", tmp_path / "answers.json"
    done, _ = run_with_vllm("tests.vllm_cpu.answers", "vllm", policy, rows, output)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = greedy_answers("transformers", policy, rows)
    assert len(expected) == 16 and json.loads(output.read_text()) == expected
    assert "vLLM's mm cache had " in done.stderr
