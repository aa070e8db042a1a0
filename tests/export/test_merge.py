"""Merging: what is written, bit by bit, and what is refused."""

import json
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

from spatial_edit_reward import load_spec, save_spec
from spatial_edit_reward.errors import UserError
from tests.conftest import BASE, ROOT, quiet, run_stage
from tests.export.conftest import SPEC, make_adapter


def tensors(folder):
    from safetensors.torch import load_file

    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


def header(file):
    data = file.read_bytes()
    return data[: 8 + int.from_bytes(data[:8], "little")]


def test_a_merge_keeps_names_and_index_and_changes_only_adapted_weights(sharded, merged_shards):
    import torch

    for file in sharded.glob("*.safetensors"):
        assert header(merged_shards / file.name) == header(file)
    index = "model.safetensors.index.json"
    assert (merged_shards / index).read_bytes() == (sharded / index).read_bytes()
    before, after = tensors(sharded), tensors(merged_shards)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == 3 * 4
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "up_proj", "down_proj"}
    assert load_spec(merged_shards) == SPEC


def test_each_adapter_is_rounded_to_the_stored_dtype_in_turn(sharded, merged_shards, adapters):
    import torch
    from safetensors.torch import load_file

    name = "model.language_model.layers.1.self_attn.q_proj"
    before = tensors(sharded)[f"{name}.weight"]
    exact = expected = before
    for adapter in adapters:
        factors = load_file(adapter / "adapter_model.safetensors")
        a, b = (factors[f"base_model.model.{name}.lora_{which}.weight"] for which in "AB")
        exact = exact.float() + (b @ a) * 2.0  # alpha 8 / r 4
        expected = (expected.float() + (b @ a) * 2.0).to(torch.bfloat16)
    merged = tensors(merged_shards)[f"{name}.weight"]
    assert torch.equal(merged, expected) and not torch.equal(merged, exact.to(torch.bfloat16))


def test_merging_in_two_steps_gives_the_same_bits(sharded, merged_shards, adapters, tmp_path):
    import torch

    from export.merge import adapted, write_merged

    for source, adapter, name in ((sharded, adapters[0], "one"), (tmp_path / "one", adapters[1], "two")):
        (tmp_path / name).mkdir()
        write_merged(source, adapted(source, [adapter]), SPEC, tmp_path / name)
    both = tensors(merged_shards)
    assert all(torch.equal(t, both[name]) for name, t in tensors(tmp_path / "two").items())


@pytest.mark.parametrize(
    "options", [{"use_rslora": True}, {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {r"layers\.1\..*q_proj": 3}}]
)
def test_scalings_are_as_peft_reads_them(sharded, tmp_path, options):
    from export.merge import adapted, write_merged
    from export.verify import check_values, merged_by_peft

    adapter = make_adapter(tmp_path / "adapter", 2, **options)
    (tmp_path / "out").mkdir()
    write_merged(sharded, adapted(sharded, [adapter]), SPEC, tmp_path / "out")
    counts = check_values(tmp_path / "out", sharded, merged_by_peft(sharded, [adapter]))
    assert counts == {"to_change": 8, "changed": 8}


def test_a_full_fine_tune_takes_the_bases_layout_and_dtype(sharded, tmp_path):
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForImageTextToText

    from export.checkpoint import finetuned_weights
    from export.merge import finetuned, write_merged
    from export.verify import check_values, verify

    model = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    model.save_pretrained(tmp_path / "full")
    (tmp_path / "out").mkdir()
    write_merged(sharded, finetuned(sharded, tmp_path / "full"), SPEC, tmp_path / "out")
    report = verify(tmp_path / "out", str(sharded), [], tmp_path / "full")
    assert report["tensors"]["to_change"] == report["tensors"]["tensors"]
    wrong = tensors(tmp_path / "full")
    wrong["model.language_model.norm.weight"][0] += 1
    save_file(wrong, tmp_path / "full" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"language_model\.norm\.weight is not what the training gave"):
        check_values(tmp_path / "out", sharded, finetuned_weights(tmp_path / "full", sharded))
    extra = {**wrong, "model.language_model.other.weight": torch.ones(2)}
    save_file(extra, tmp_path / "full" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"not the tensors of .*: model\.language_model\.other\.weight"):
        finetuned(sharded, tmp_path / "full")
    del wrong["model.language_model.norm.weight"]
    save_file(wrong, tmp_path / "full" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"not the tensors of .*: model\.language_model\.norm\.weight"):
        finetuned(sharded, tmp_path / "full")


def test_a_gathered_fsdp_checkpoint_is_exported_and_verified(sharded, tmp_path):
    """Saved as FSDP's workers do, gathered by accelerate: weights alone, with the tied output layer."""
    import torch
    from accelerate.utils import merge_fsdp_weights
    from torch.distributed.checkpoint import save
    from transformers import AutoModelForImageTextToText

    from export.merge import finetuned, write_merged
    from export.verify import verify

    model = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32)
    with torch.no_grad():
        model.model.language_model.norm.weight.mul_(1.5)
    save({"model": model.state_dict()}, checkpoint_id=tmp_path / "fsdp", no_dist=True)
    merge_fsdp_weights(str(tmp_path / "fsdp"), str(tmp_path / "full"))
    (tmp_path / "out").mkdir()
    write_merged(sharded, finetuned(sharded, tmp_path / "full"), SPEC, tmp_path / "out")
    assert verify(tmp_path / "out", str(sharded), [], tmp_path / "full")["tensors"]["changed"] == 1


def test_what_cannot_be_merged_is_refused(sharded, adapters, tmp_path):
    from safetensors.torch import load_file, save_file

    from export.merge import adapted

    dora = make_adapter(tmp_path / "dora", 0, use_dora=True)
    with pytest.raises(UserError, match=r"lora_magnitude_vector.*only plain LoRA"):
        adapted(BASE, [dora])
    with pytest.raises(UserError, match="no adapter that can be read"):
        adapted(BASE, [tmp_path / "nowhere"])
    quantized = shutil.copytree(sharded, tmp_path / "quantized")
    config = json.loads((quantized / "config.json").read_text())
    (quantized / "config.json").write_text(json.dumps({**config, "quantization_config": {"load_in_4bit": True}}))
    with pytest.raises(UserError, match="quantized: merge into the weights it was made from"):
        adapted(quantized, adapters)
    other = shutil.copytree(adapters[0], tmp_path / "other")
    file = other / "adapter_model.safetensors"
    save_file({name.replace("layers.3", "layers.9"): t for name, t in load_file(file).items()}, file)
    with pytest.raises(UserError, match=r"has no model\.language_model\.layers\.9\..* to merge into"):
        adapted(BASE, [other])


@pytest.mark.slow
def test_a_merge_that_fails_its_verification_is_deleted(adapters, tmp_path, monkeypatch):
    """The adapter is changed between merge and verification, as a second run could do it."""
    from safetensors.torch import load_file, save_file

    from export import merge as module

    copy = shutil.copytree(adapters[0], tmp_path / "adapter")
    original = module.write_merged

    def change_adapter_too(*arguments):
        original(*arguments)
        file = copy / "adapter_model.safetensors"
        save_file({name: t * 2 for name, t in load_file(file).items()}, file, {"format": "pt"})

    monkeypatch.setattr(module, "write_merged", change_adapter_too)
    with pytest.raises(UserError, match="deleted"):
        module.merge(str(BASE), [copy], SPEC, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.slow
def test_a_killed_merge_leaves_nothing_under_its_name_and_runs_again(adapters, tmp_path):
    command = ["export", "merge", "--base", BASE, "--adapter", *adapters, "--output_dir", tmp_path / "out"]
    with subprocess.Popen(
        [sys.executable, "-m", *map(str, command)], cwd=ROOT, env=quiet(), start_new_session=True
    ) as run:
        while run.poll() is None and not (tmp_path / ".out.partial" / "model.safetensors").exists():
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock", ".out.partial"]
    done = run_stage(*command)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert json.loads((tmp_path / "out" / "export_report.json").read_text())["passed"]
    assert "nothing to do" in run_stage(*command).stdout


@pytest.mark.slow
def test_a_full_fine_tune_is_merged_by_the_command(tmp_path):
    """As `make merge` does after a stage 2 without LoRA."""
    weights = shutil.copytree(BASE, tmp_path / "weights")
    save_spec(SPEC, weights)
    command = ["export", "merge", "--base", BASE, "--checkpoint", weights, "--output_dir", tmp_path / "out"]
    done = run_stage(*command)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (BASE / "model.safetensors").read_bytes()
    assert load_spec(tmp_path / "out") == SPEC


@pytest.mark.slow
def test_a_full_disk_is_one_line(adapters, tmp_path):
    """A limit on the size of a file stands in for the disk's: both fail the write."""
    command = ["export", "merge", "--base", BASE, "--adapter", *adapters, "--output_dir", tmp_path / "out"]
    limit = 10**6
    done = run_stage(*command, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == f"error: {tmp_path / 'out'}: cannot be written: File too large"
    assert not list(tmp_path.iterdir())
