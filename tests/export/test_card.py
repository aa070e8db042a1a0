"""The model card: the run's own figures, metadata that the Hub's library reads back, a snippet that runs; and `push`."""

import contextlib
import io
import json
import os
import re
import shutil

import pytest
import yaml

from data.synthetic.generate import group_rows
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.images import fit
from tests.conftest import BASE, ROOT, quiet, run_stage
from tests.export.conftest import SPEC
from tests.export.hub import TOKEN, Hub

REPO = "someone/judge"


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def card_of(folder):
    """The card of the run in `folder`, as the Hub's library reads it."""
    from huggingface_hub import ModelCard

    from export.card import FinishedRun, make_card

    return ModelCard(make_card(FinishedRun(folder), REPO))


def test_metadata_and_figures_are_the_runs(run):
    from spatial_edit_reward.inference.request import max_model_len

    card = card_of(run)
    data = card.data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "transformers", "image-text-to-text")
    assert data.model_name == "judge" and data.base_model is None  # the base is a folder here
    assert {result.metric_type: result.metric_value for result in data.eval_results}["box_iou"] == 0.5
    assert "score_mae" not in {result.metric_type for result in data.eval_results}
    text = card.text
    assert "| `box_iou` | 0.500 [0.250, 0.625] | 0.500 [0.250, 0.625] | +0.500 [+0.250, +0.625] |" in text
    assert "| `score_mae` | – | – | – |" in text
    assert "| `tie_rate` | 0.375 | 0.375 | +0.375 |" in text
    counts = json.loads((run / "data" / "data_report.json").read_text())["splits"]["train"]
    assert f"| train | {counts['rows']} | {counts['sc']} | {counts['pq']} | {counts['sc_with_region']} |" in text
    assert "| synthetic | apache-2.0 |" in text
    rate = yaml.safe_load((ROOT / "recipes" / "tiny" / "sft.yaml").read_text())["learning_rate"]
    assert f"learning_rate: {rate}" in text and "num_generations: 8" in text and "(1.5 minutes)" in text
    parameters = json.loads((run / "merge" / "export_report.json").read_text())["tensors"]["parameters"]
    assert f"{parameters:,} parameters" in text
    assert SPEC.prompts["sc"] in text and SPEC.prompts["pq"] in text
    assert f"vllm serve {REPO} --max-model-len {max_model_len(SPEC, images=2)}" in text
    assert "{{" not in text and "None" not in text and "data_dir" not in text


def test_what_was_merged_is_known_where_a_stage_trained_all_weights(copy):
    from export.card import FinishedRun

    run, sft, grpo = FinishedRun(copy), copy / "sft", copy / "grpo"
    (sft / "merged").mkdir(exist_ok=True)
    assert run.merged_from() == (run.base, [sft / "adapter", grpo / "adapter"], None)
    (grpo / "weights").mkdir()
    assert run.merged_from() == (run.base, [], grpo / "weights")
    with pytest.raises(UserError, match="grpo: this stage trained all weights, there is no adapter"):
        _ = run.adapters
    (grpo / "weights").rename(sft / "weights")
    assert run.merged_from() == (str(sft / "merged"), [grpo / "adapter"], None)


def test_a_base_on_the_hub_is_named_in_the_metadata(copy):
    file = copy / "sft" / "fingerprint.json"
    made = json.loads(file.read_text())
    made["made_from"]["recipe"]["model_name_or_path"] = "Qwen/Qwen3-VL-8B-Instruct"
    file.write_text(json.dumps(made))
    assert card_of(copy).data.base_model == "Qwen/Qwen3-VL-8B-Instruct"


def test_figures_of_other_weights_are_refused(copy):
    (copy / "merge" / "generation_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"is of other weights than .*: run 'make eval report'"):
        card_of(copy)


def test_a_failed_verification_is_no_card(copy):
    (copy / "merge" / "export_report.json").write_text(json.dumps({"passed": False, "failed": "a tensor is empty"}))
    with pytest.raises(UserError, match="did not pass its verification: a tensor is empty"):
        card_of(copy)


def test_the_transformers_snippet_writes_what_evaluation_reads(run, tmp_path, monkeypatch):
    from spatial_edit_reward.inference.generation import generate_batch
    from spatial_edit_reward.inference.model import load_model, load_processor

    snippet = re.search(r"```python\n(.*?)```", card_of(run).text, re.DOTALL)[1]
    instruction = re.search(r'instruction="(.*?)"', snippet)[1]
    images = [fit(image, SPEC.pixels) for image in group_rows(seed=1, number=0, image_size=64)[0]["images"]]
    monkeypatch.chdir(tmp_path)
    for name, image in zip(("source.png", "edited.png"), images, strict=True):
        image.save(name)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(snippet.replace(f'snapshot_download("{REPO}")', repr(str(run / "merge"))), {})
    model, processor = load_model(str(run / "merge"), None, None), load_processor(str(run / "merge"), SPEC)
    messages = prompt_messages("sc", instruction, SPEC)
    [expected] = generate_batch(model, processor, [messages], [images], SPEC.max_new_tokens).responses
    assert printed.getvalue().strip() == expected.text.strip() != ""


def test_the_library_snippet_reads_verdicts(run, capsys):
    snippet = re.findall(r"```python\n(.*?)```", card_of(run).text, re.DOTALL)[1]
    region = {"id": 0, "label": "cup", "bbox_2d": [0, 0, 500, 500]}
    sc = {"edit_region": [region], "reasoning": "<|bbox_0|> a cup <|global|> fine", "score": [25, 25]}
    pq = {"reasoning": "sharp", "score": [25, 25]}
    exec(snippet, {"completion": json.dumps(sc), "pq_completion": json.dumps(pq), "folder": str(run / "merge")})
    assert capsys.readouterr().out.strip() == f"{[region]} 1.0"


def test_a_stage_2_without_lora_is_published(copy, capsys):
    """`grpo/weights` instead of an adapter: the same bits, so the held-out figures are still of these weights."""
    from export.__main__ import run_push
    from export.merge import finetuned, write_merged

    weights = copy / "grpo" / "weights"
    weights.mkdir()
    (copy / "merge" / "model.safetensors").rename(weights / "model.safetensors")
    shutil.rmtree(copy / "grpo" / "adapter")
    write_merged(BASE, finetuned(BASE, weights), SPEC, copy / "merge")
    run_push(copy, REPO, "main", private=False, adapters=False, confirm=False)
    assert "bit-equal to the fine-tune" in capsys.readouterr().out
    card = (copy / "merge" / "README.md").read_text()
    assert "every tensor bit-equal to the fine-tune's" in card and "adapted" not in card
    with pytest.raises(UserError, match="grpo: this stage trained all weights, there is no adapter"):
        run_push(copy, REPO, "main", private=False, adapters=True, confirm=False)


@pytest.mark.slow
def test_push_shows_first_and_publishes_on_confirmation(run, monkeypatch):
    """As a user would: real processes, the endpoint and the token from the environment."""
    hub = Hub()
    online = {**quiet(), "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    monkeypatch.setattr(os, "environ", online)
    monkeypatch.setattr("tests.conftest.quiet", lambda: online)
    dry = run_stage("export", "push", run, "--repo", REPO)
    assert dry.returncode == 0, dry.stderr[-3000:]
    assert "dry run" in dry.stdout and "model.safetensors" in dry.stdout and "pipeline_tag:" in dry.stdout
    assert not hub.repositories
    done = run_stage("export", "push", run, "--repo", REPO, "--private", "--confirm")
    assert done.returncode == 0, done.stderr[-3000:]
    held = hub.repositories[REPO].branches["main"][1]
    assert held["model.safetensors"] == (run / "merge" / "model.safetensors").read_bytes()
    assert {"README.md", "curves.png", "export_report.json", "verdict.json", "config.json"} <= set(held)
    assert "fingerprint.json" not in held
    adapters = run_stage(
        "export", "push", run, "--repo", REPO, "--revision", "adapters", "--adapters", "--private", "--confirm"
    )
    assert adapters.returncode == 0, adapters.stderr[-3000:]
    there = hub.repositories[REPO].branches["adapters"][1]
    assert {"sft/adapter_model.safetensors", "grpo/adapter_model.safetensors", "verdict.json", "README.md"} <= set(
        there
    )
    assert not any(TOKEN in text for process in (dry, done, adapters) for text in (process.stdout, process.stderr))
    assert not any(TOKEN.encode() in content for files in (held, there) for content in files.values())


@pytest.mark.slow
def test_push_refuses_what_does_not_verify(copy):
    shutil.copy(copy / "sft" / "adapter" / "adapter_model.safetensors", copy / "grpo" / "adapter")
    done = run_stage("export", "push", copy, "--repo", REPO, "--confirm")
    assert done.returncode == 1 and "error: " in done.stderr.splitlines()[-1] and "published" not in done.stdout


def test_push_and_merge_do_not_work_on_one_folder_at_once(copy):
    from export.__main__ import run_push
    from pipeline.folders import stage_lock

    with (
        stage_lock(copy / "merge"),
        pytest.raises(UserError, match=f"merge is being written by process {os.getpid()} on"),
    ):
        run_push(copy, REPO, "main", private=False, adapters=False, confirm=True)
