"""Launchers: a process without its complete rank, or tasks that nobody joins, are named before torch is loaded."""

import pytest

from pipeline.launch import check_launch, needed_packages
from spatial_edit_reward.errors import UserError

COMPLETE = {"RANK": "8", "LOCAL_RANK": "0", "WORLD_SIZE": "16", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}


def test_a_whole_place_or_none_is_let_through():
    check_launch(COMPLETE)
    check_launch({})
    check_launch({"WORLD_SIZE": "1"})
    check_launch({"SLURM_NTASKS": "2", "SLURM_PROCID": "1", **COMPLETE})


@pytest.mark.parametrize("gone", ["RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_a_missing_variable_on_the_second_node_is_named(gone):
    with pytest.raises(UserError, match=f"not {gone}: start every node"):
        check_launch({name: value for name, value in COMPLETE.items() if name != gone})


def test_slurm_tasks_without_a_launcher_are_refused():
    with pytest.raises(UserError, match="16 tasks without a launcher"):
        check_launch({"SLURM_NTASKS": "16", "SLURM_PROCID": "3"})


def test_packages_are_asked_for_by_the_options_that_need_them():
    assert needed_packages({"report_to": ["tensorboard"], "optim": "adamw_torch_fused"}) == {}
    needed = needed_packages(
        {"use_vllm": True, "load_in_4bit": True, "report_to": ["wandb"], "reward_funcs": ["format", {"judge": {}}]}
    )
    assert set(needed) == {"vllm", "bitsandbytes", "wandb", "openai"}
    assert needed_packages({"optim": "paged_adamw_8bit"})["bitsandbytes"][1] == "quant"
