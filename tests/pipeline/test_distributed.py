"""What is refused before training: processes that do not fit the GPUs, networks that differ, another engine than asked for."""

import socket
from types import SimpleNamespace

import pytest

from spatial_edit_reward.errors import UserError

CUDA = "torch.cuda.device_count"
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def environment(monkeypatch):
    """An environment without a launcher, to set variables in."""
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    from accelerate import PartialState

    PartialState(cpu=True)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "gpus", "use_cpu", "message"),
    [
        ({"LOCAL_WORLD_SIZE": "8"}, 4, False, "8 processes on a node with 4 GPUs: set num_processes to 4"),
        ({}, 8, False, "one process, but 8 GPUs"),
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}, 0, True, "MASTER_ADDR is set"),
        ({"NCCL_SOCKET_IFNAME": "nowhere0"}, 1, False, "NCCL_SOCKET_IFNAME=nowhere0, but its interfaces are .*lo"),
    ],
)
def test_a_wrong_launch_is_one_line(environment, variables, gpus, use_cpu, message):
    from pipeline.distributed import check_processes

    for name, value in variables.items():
        environment.setenv(name, value)
    environment.setattr(CUDA, lambda: gpus)
    with pytest.raises(UserError, match=message):
        check_processes(SimpleNamespace(use_cpu=use_cpu))


@pytest.mark.parametrize(("gpus", "use_cpu"), [(0, True), (1, False), (8, True)])
def test_a_right_launch_passes(environment, gpus, use_cpu):
    from pipeline.distributed import check_processes

    environment.setattr(CUDA, lambda: gpus)
    check_processes(SimpleNamespace(use_cpu=use_cpu))


@pytest.mark.parametrize("value", ["", "lo", "=lo", "eth9,lo", "^docker0"])
def test_networks_that_are_there_pass(value):
    from pipeline.distributed import check_network

    assert "lo" in [name for _, name in socket.if_nameindex()]
    check_network({"NCCL_SOCKET_IFNAME": value})


def test_from_main_gives_the_result_and_the_error():
    from pipeline.distributed import on_main_process

    assert on_main_process(lambda: {"a": 1}) == {"a": 1}

    def fails():
        raise UserError("this is wrong")

    with pytest.raises(UserError, match="this is wrong"):
        on_main_process(fails)


def trainer_of(processes=1, zero=None, fsdp=None):
    state = SimpleNamespace(
        num_processes=processes,
        deepspeed_plugin=SimpleNamespace(zero_stage=zero),
        fsdp_plugin=SimpleNamespace(fsdp_version=fsdp),
    )
    return SimpleNamespace(
        accelerator=SimpleNamespace(state=state), is_deepspeed_enabled=bool(zero), is_fsdp_enabled=bool(fsdp)
    )


def test_the_engine_is_named_and_must_be_the_configured_one(monkeypatch):
    from pipeline.distributed import engine_name

    assert engine_name(trainer_of()) == "one process"
    assert engine_name(trainer_of(processes=2)) == "DDP, 2 processes"
    assert engine_name(trainer_of(processes=2, zero=3)) == "DeepSpeed ZeRO-3, 2 processes"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert engine_name(trainer_of(processes=2, fsdp=2)) == "FSDP2, 2 processes"
    with pytest.raises(UserError, match="names FSDP, but DDP is used"):
        engine_name(trainer_of(processes=2))


def test_parameters_are_counted_where_they_are_divided():
    import torch

    from pipeline.distributed import num_elements, num_parameters

    linear = torch.nn.Linear(3, 5)
    linear.bias.requires_grad_(False)
    assert num_parameters(linear) == 20 and num_parameters(linear, trained=True) == 15
    divided = torch.nn.Parameter(torch.empty(0))
    divided.ds_numel = 12
    assert num_elements(divided) == 12
