"""Every file in recipes/accelerate as accelerate and DeepSpeed read it."""

import json
import os
import subprocess

import pytest

from tests.conftest import BASE, ROOT

FOLDER = ROOT / "recipes" / "accelerate"
TYPES = {
    "single": "NO",
    "ddp": "MULTI_GPU",
    "zero2": "DEEPSPEED",
    "zero3": "DEEPSPEED",
    "fsdp2": "FSDP",
    "two-nodes": "MULTI_GPU",
}


def test_every_engine_has_its_file():
    assert {file.stem for file in FOLDER.glob("*.yaml")} == set(TYPES)


@pytest.mark.parametrize("engine", TYPES)
def test_accelerate_loads_it(engine, monkeypatch):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    monkeypatch.chdir(ROOT)
    config = load_config_from_file(str(FOLDER / f"{engine}.yaml"))  # refuses unknown keys
    assert config.distributed_type.name == TYPES[engine]
    assert config.num_processes == {"single": 1, "two-nodes": 16}.get(engine, 8)
    arguments = ["--config_file", str(FOLDER / f"{engine}.yaml"), "-m", "sft"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    known = vars(launch_command_parser().parse_args(["-m", "sft"]))
    for section in ("fsdp_config", "deepspeed_config"):
        for key in getattr(config, section):
            name = key if section == "deepspeed_config" or key.startswith("fsdp") else f"fsdp_{key}"
            assert name in known, f"{engine}.yaml: {section}.{key} is no option of accelerate launch"
    if args.use_deepspeed:
        assert (ROOT / args.deepspeed_config_file).is_file()


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_knows_every_field(stage):
    """Its sections forbid what they do not know; "auto" stands for what the stage fills in."""
    from deepspeed.runtime.config import DeepSpeedConfig
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    content = json.loads((FOLDER / f"zero{stage}.json").read_text())
    zero = DeepSpeedZeroConfig(**{k: v for k, v in content["zero_optimization"].items() if v != "auto"})
    assert zero.stage == stage and set(content["zero_optimization"]) <= names(DeepSpeedZeroConfig)
    assert set(content["bf16"]) <= names(DeepSpeedBF16Config)
    assert zero.gather_16bit_weights_on_model_save == (stage == 3)
    filled = {**content, "bf16": {"enabled": False}, "gradient_clipping": 1.0, "train_batch_size": 1}
    filled |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
    filled["zero_optimization"] = {k: v for k, v in content["zero_optimization"].items() if v != "auto"}
    config = DeepSpeedConfig(filled)
    assert config.zero_optimization_stage == stage and config.gradient_clipping == 1.0
    with pytest.raises(ValueError, match="stagee"):
        DeepSpeedZeroConfig(stagee=3)


def names(section):
    fields = section.model_fields
    return set(fields) | {field.alias for field in fields.values() if field.alias}


def test_fsdp2_wraps_the_layers_of_the_model(monkeypatch):
    import torch
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import FullyShardedDataParallelPlugin
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = load_config_from_file(str(FOLDER / "fsdp2.yaml"))
    wanted = set(config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"].split(","))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(BASE))
    kinds = [type(module).__name__ for module in model.modules()]
    layers = model.config.text_config.num_hidden_layers + model.config.vision_config.depth
    assert sum(kinds.count(name) for name in wanted) == layers and all(name in kinds for name in wanted)
    monkeypatch.setenv("FSDP_VERSION", "2")
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        state_dict_type=config.fsdp_config["fsdp_state_dict_type"],
        reshard_after_forward=config.fsdp_config["fsdp_reshard_after_forward"],
        auto_wrap_policy=config.fsdp_config["fsdp_auto_wrap_policy"].lower(),
        transformer_cls_names_to_wrap=sorted(wanted),
    )
    plugin.set_auto_wrap_policy(model)
    assert plugin.auto_wrap_policy is not None


def test_the_slurm_script_starts_one_launcher_on_each_node(tmp_path):
    """Run for real with stand-ins for Slurm's commands and for accelerate, which records its arguments."""
    from accelerate.commands.launch import launch_command_parser

    tools = tmp_path / "bin"
    tools.mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    scripts = {
        # More names than a pipe holds: a reader that stops after the first must not end the script.
        tools / "scontrol": "echo node-a; seq -f node-%g 20000",
        tools / "srun": 'shift; for n in 0 1; do SLURM_NODEID=$n "$@"; done',
        tmp_path / ".venv" / "bin" / "accelerate": 'echo "$@" >> calls',
    }
    for file, text in scripts.items():
        file.write_text(f"#!/bin/bash\n{text}\n")
        file.chmod(0o755)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_NNODES": "2"}
    command = ["bash", str(FOLDER / "slurm.sh"), "sft", "recipes/tiny/sft.yaml", "--seed", "3"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    assert len(calls) == 2
    for rank, call in enumerate(calls):
        args = launch_command_parser().parse_args(call[1:])
        assert (args.machine_rank, args.num_machines, args.num_processes) == (rank, 2, 16)
        assert (args.main_process_ip, args.main_process_port) == ("node-a", 29500)
        assert args.training_script == "sft"
        assert args.training_script_args == ["--config", "recipes/tiny/sft.yaml", "--seed", "3"]


def test_the_readme_names_every_file():
    text = (FOLDER / "README.md").read_text()
    for file in FOLDER.iterdir():
        assert file.name == "README.md" or file.name in text
