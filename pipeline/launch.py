"""What a run needs of the machine: packages of the extras, and a launcher that set every process's variables."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from spatial_edit_reward.errors import UserError

# Set by torchrun and `accelerate launch` for every process; a process that has some but not all was started by hand.
TORCHRUN_VARS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def needed_packages(options: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Module -> (the option that needs it, the extra that installs it), of a stage's options by name."""
    needed = {}
    if options.get("use_vllm"):
        needed["vllm"] = ("use_vllm", "vllm")
    if options.get("load_in_4bit") or options.get("load_in_8bit"):
        needed["bitsandbytes"] = ("load_in_4bit or load_in_8bit", "quant")
    if "8bit" in str(options.get("optim")) or "paged" in str(options.get("optim")):
        needed["bitsandbytes"] = (f"optim {getattr(options['optim'], 'value', options['optim'])}", "quant")
    if options.get("deepspeed"):
        needed["deepspeed"] = ("deepspeed", "dist")
    for tracker in ("wandb", "trackio"):
        if tracker in (options.get("report_to") or ()):
            needed[tracker] = (f"report_to {tracker}", "trackers")
    if any(entry == "judge" or "judge" in entry for entry in options.get("reward_funcs") or () if entry):
        needed["openai"] = ("reward_funcs judge", "judge")
    return needed


def missing_packages(options: Mapping[str, Any]) -> list[str]:
    """A sentence for each package that the options need and that is not installed."""
    return [
        f"{option} needs {module}, which is not installed: pip install -c constraints.txt -e '.[{extra}]'"
        for module, (option, extra) in needed_packages(options).items()
        if find_spec(module) is None
    ]


def check_packages(options: Mapping[str, Any]) -> None:
    """Raises UserError for the first package that the options need and that is not installed."""
    for sentence in missing_packages(options):
        raise UserError(sentence)


def check_launch(environment: Mapping[str, str]) -> None:
    """Raises UserError where a launcher left out variables, or where Slurm started several tasks without one.

    Without this, torch ends in a traceback, or each Slurm task would train alone and write into the same folder.
    """
    present = [name for name in TORCHRUN_VARS if environment.get(name)]
    missing = [name for name in TORCHRUN_VARS if not environment.get(name)]
    if environment.get("WORLD_SIZE", "1") != "1" and missing:
        raise UserError(
            f"{present[0]} is set but not {', '.join(missing)}: start every node with torchrun or accelerate launch "
            "(--machine_rank, --main_process_ip, --main_process_port; recipes/accelerate/README.md has the lines)"
        )
    if int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environment and "RANK" not in environment:
        raise UserError(
            f"Slurm started {environment['SLURM_NTASKS']} tasks without a launcher, and each would train alone: run one "
            "task per node (--ntasks-per-node=1) that starts accelerate launch or torchrun"
        )
