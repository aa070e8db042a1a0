"""A two-shard bf16 copy of the tiny base, adapters with weights that matter, and their merges."""

import shutil

import pytest

from pipeline.fingerprint import hash_model, mark_finished
from pipeline.recipe import read_yaml
from spatial_edit_reward import Spec, save_spec
from spatial_edit_reward.files import write_json
from tests.conftest import BASE, ROOT

SPEC = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=16)


def make_adapter(folder, seed, base=BASE, **options):
    """An adapter on the tiny base that changes what it writes."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    options = {"r": 4, "target_modules": r".*language_model.*\.(q_proj|down_proj)", **options}
    adapter = get_peft_model(model, LoraConfig(**options))
    torch.manual_seed(seed)
    for name, parameter in adapter.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapter.save_pretrained(folder)
    save_spec(SPEC, folder)
    return folder


@pytest.fixture(scope="session")
def adapters(tmp_path_factory):
    """Two adapters, as of two stages."""
    folder = tmp_path_factory.mktemp("adapters")
    return [
        make_adapter(folder / "sft", 0),
        make_adapter(folder / "grpo", 1, target_modules=r".*language_model.*\.up_proj|.*q_proj"),
    ]


@pytest.fixture(scope="session")
def sharded(tmp_path_factory):
    """The tiny base in bf16, in two shards."""
    import torch
    from transformers import AutoModelForImageTextToText

    folder = tmp_path_factory.mktemp("sharded") / "base"
    shutil.copytree(BASE, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    model = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="1500KB")
    assert len(list(folder.glob("*.safetensors"))) == 2
    return folder


@pytest.fixture(scope="session")
def merged(adapters, tmp_path_factory):
    """The tiny base, fp32 in one file, with the first adapter merged."""
    from export.merge import adapted, write_merged

    folder = tmp_path_factory.mktemp("merged")
    write_merged(BASE, adapted(BASE, adapters[:1]), SPEC, folder)
    return folder


@pytest.fixture(scope="session")
def merged_shards(sharded, adapters, tmp_path_factory):
    """The two-shard bf16 base with both adapters merged."""
    from export.merge import adapted, write_merged

    folder = tmp_path_factory.mktemp("merged_shards")
    write_merged(sharded, adapted(sharded, adapters), SPEC, folder)
    return folder


@pytest.fixture(scope="session")
def run(small_data, adapters, tmp_path_factory):
    """A finished run as the stages leave it: data, adapters, merge and verification are real, logs and figures are not."""
    from evaluation.metrics import METRICS
    from export.merge import adapted, write_merged
    from export.verify import verify

    folder = tmp_path_factory.mktemp("runs") / "small"
    shutil.copytree(small_data, folder / "data")
    for stage, adapter in zip(("sft", "grpo"), adapters, strict=True):
        shutil.copytree(adapter, folder / stage / "adapter")
        recipe = read_yaml(ROOT / "recipes" / "tiny" / f"{stage}.yaml")
        mark_finished(folder / stage, {"recipe": {**recipe, "model_name_or_path": str(BASE)}})
        history = [{"step": step, "loss": 2.0 / step, "rewards/box_iou/mean": step / 9} for step in range(1, 5)]
        write_json(
            folder / stage / "trainer_state.json", {"log_history": [*history, {"step": 4, "train_runtime": 90.0}]}
        )
    merge = folder / "merge"
    merge.mkdir()
    write_merged(BASE, adapted(BASE, adapters), SPEC, merge)
    write_json(merge / "export_report.json", verify(merge, str(BASE), adapters))
    mark_finished(merge, {})
    for name in ("eval", "report"):
        (folder / name).mkdir()
    mark_finished(folder / "eval", {"models": {"merged": [hash_model(str(merge)), None]}})
    figures = {name: {"mean": 0.5, "low": 0.25, "high": 0.625} for name in METRICS}
    figures["score_mae"] = {"mean": None, "low": None, "high": None}
    figures["tie_rate"] = {"mean": 0.375, "low": None, "high": None}  # of one group: no interval
    report = {
        "rows": {"sc": 12, "pq": 12},
        "models": {"sft": figures, "merged": figures},
        "differences": {"grpo-sft": figures},
    }
    write_json(folder / "report" / "heldout.json", report)
    return folder
