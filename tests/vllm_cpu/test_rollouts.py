"""Stage 2 with rollouts by a real vLLM: its prompts, weights and probabilities are the trainer's, or the stage stops."""

import json
import re
import subprocess
import time
import urllib.request
from itertools import groupby

import pytest

from tests.accelerate.launched import free_port
from tests.conftest import BASE, ROOT, quiet, write_recipe
from tests.vllm_cpu.conftest import ENVIRONMENT

pytestmark = pytest.mark.slow

IMAGE = 938  # <|image_pad|> of the tiny base
OTHER_IMAGES = r"vLLM saw another prompt than the trainer scores: images of \[16(, 16)?\] tokens for \[4(, 4)?\]; give "
SMALL = {
    "max_steps": 3,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "steps_per_generation": 1,
    "warmup_steps": 0,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    # The untrained base earns nothing: without a spread of rewards every update would be zero.
    "reward_funcs": ["tests.stages.length_reward:length"],
    "reward_weights": [1.0],
    "use_vllm": True,
    "vllm_mode": "colocate",
    "vllm_max_model_length": 512,
    "vllm_gpu_memory_utilization": 0.1,
    "max_logp_difference": 1e-5,  # float32: rounding is 1e-6
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory, small_data):
    """The untrained base with a spec, and two rows in `rl`: one with two images, one with one, again at every step."""
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("policy")
    for file in [*BASE.iterdir(), small_data / "verdict.json"]:
        (folder / file.name).write_bytes(file.read_bytes())
    rows = pq.read_table(small_data / "rl.parquet")
    tasks = rows["task"].to_pylist()
    (folder / "data").mkdir()
    pq.write_table(rows.take([tasks.index("sc"), tasks.index("pq")]), folder / "data" / "rl.parquet")
    return folder


def recipe(tmp_path, policy, **changes):
    paths = {"model_name_or_path": str(policy), "data_dir": str(policy / "data"), "output_dir": str(tmp_path / "grpo")}
    return write_recipe(tmp_path / "grpo.yaml", "grpo", **{**SMALL, **paths, **changes})


def images(prompts):
    """How many tokens each image has, by prompt, without repeats."""
    return {tuple(len(list(run)) for token, run in groupby(ids) if token == IMAGE) for ids in prompts}


def stopped(done):
    """The one line in which a stage stopped."""
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-3000:]
    (line,) = (line for line in done.stderr.splitlines() if "error: " in line)
    return line


@pytest.fixture(scope="module")
def other_pixels(tmp_path_factory, policy):
    """The policy with a spec whose images are smaller than the limits of its processor, which vLLM reads."""
    folder = tmp_path_factory.mktemp("other")
    for file in policy.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    spec = json.loads((folder / "verdict.json").read_text())
    spec["pixels"]["max"] = 1024
    (folder / "verdict.json").write_text(json.dumps(spec))
    return folder


def test_vllm_samples_from_the_prompts_and_weights_that_are_trained(run_with_vllm, tmp_path, policy):
    file = recipe(tmp_path, policy, ddp_backend="gloo", per_device_train_batch_size=4)
    done, record = run_with_vllm("grpo", "--config", file, processes=2)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-3000:]
    assert images(record["scored"]) == {(16, 16), (16,)} and record["seen"] == record["scored"]
    assert len(record["difference"]) == 2 * 3 and max(record["difference"]) < 1e-5
    assert "DDP, 2 processes" in done.stdout
    assert "first rollout: mean |log p sampled - log p recomputed| " in done.stdout
    # Merging an adapter for vLLM and subtracting it again leaves the weights below it as they were.
    assert record["changed"] == [0, 0]
    assert (tmp_path / "grpo" / "adapter" / "adapter_model.safetensors").exists()
    finished = json.loads((tmp_path / "grpo" / "fingerprint.json").read_text())["finished"]
    assert finished is True


def test_images_are_encoded_anew_where_the_vision_tower_is_trained(run_with_vllm, tmp_path, policy):
    done, record = run_with_vllm("grpo", "--config", recipe(tmp_path, policy, use_peft=False, learning_rate=1e-3))
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(record["difference"]) == 3 and max(record["difference"]) < 1e-5


def test_weights_that_do_not_reach_vllm_stop_the_stage(run_with_vllm, tmp_path, policy):
    done, record = run_with_vllm("grpo", "--config", recipe(tmp_path, policy), STALE="1")
    assert "above max_logp_difference 1e-05: vLLM samples from other weights" in stopped(done)
    assert record["difference"][0] < 1e-5 < record["difference"][-1]


def test_other_pixel_limits_than_the_trainers_stop_the_stage(run_with_vllm, tmp_path, policy, other_pixels):
    done, _ = run_with_vllm("grpo", "--config", recipe(tmp_path, policy, model_name_or_path=str(other_pixels)))
    assert re.search(OTHER_IMAGES, stopped(done))


def test_a_prompt_that_leaves_no_room_for_the_answer_stops_the_stage(run_with_vllm, tmp_path, policy):
    done, _ = run_with_vllm("grpo", "--config", recipe(tmp_path, policy, vllm_max_model_length=96))
    assert "vllm_max_model_length: 96, but prompt and answer take " in stopped(done)


@pytest.fixture(scope="module")
def server(vllm_python, policy, tmp_path_factory):
    """The port of a vLLM server on the policy, started as TRL starts one."""
    port = free_port()
    command = [
        str(vllm_python),
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(policy),
        "--port",
        str(port),
    ]
    command += ["--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager", "--max-model-len", "512"]
    command += ["--enable-scale-out", "--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1"]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as opened:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**quiet(), **ENVIRONMENT}, stdout=opened, stderr=subprocess.STDOUT
        )
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()[-3000:]
                time.sleep(1)
        yield port
        process.terminate()
        process.wait()


def test_a_server_samples_from_the_prompts_that_are_trained(run_with_vllm, server, tmp_path, policy):
    changes = {"vllm_mode": "server", "vllm_server_base_url": f"http://127.0.0.1:{server}", "max_steps": 1}
    done, record = run_with_vllm("grpo", "--config", recipe(tmp_path, policy, **changes))
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(record["difference"]) == 1 and record["difference"][0] < 1e-5


def test_a_server_with_other_pixel_limits_stops_the_stage(run_with_vllm, server, tmp_path, policy, other_pixels):
    changes = {"vllm_mode": "server", "vllm_server_base_url": f"http://127.0.0.1:{server}"}
    done, _ = run_with_vllm(
        "grpo", "--config", recipe(tmp_path, policy, **changes, model_name_or_path=str(other_pixels))
    )
    assert re.search(OTHER_IMAGES, stopped(done))
