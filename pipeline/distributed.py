"""Several processes: what the launcher set up (one process, DDP, DeepSpeed's ZeRO or FSDP2), and whether it can work."""

from __future__ import annotations

import gc
import json
import math
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from torch import distributed

from spatial_edit_reward.errors import UserError

Result = TypeVar("Result")

NETWORK = ("NCCL_", "GLOO_SOCKET_IFNAME")  # variables that decide how nodes find each other


def on_main_process(make: Callable[[], Result]) -> Result:
    """What `make` returns on the main process, on every process; the others wait. A UserError is raised on all of them."""
    outcome: list[Any] = [None, None]  # the result, the error's text
    if PartialState().is_main_process:
        try:
            outcome[0] = make()
        except UserError as error:
            outcome[1] = str(error)
    if distributed.is_initialized():
        distributed.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise UserError(outcome[1])
    result: Result = outcome[0]
    return result


def check_processes(args: Any) -> None:
    """Raises UserError where the processes do not fit the GPUs, or where a node lacks what the first one has.

    `args` are the stage's TrainingArguments, so the process group is there, but nothing was sent over it yet.
    """
    state, gpus = PartialState(), torch.cuda.device_count()
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if "MASTER_ADDR" in os.environ and state.num_processes == 1 and "RANK" not in os.environ:
        raise UserError(
            "MASTER_ADDR is set but the world size is 1: start several processes with torchrun, or with accelerate launch "
            "without --cpu; unset MASTER_ADDR for one process"
        )
    if not args.use_cpu and gpus and local_processes > gpus:
        raise UserError(
            f"{local_processes} processes on a node with {gpus} GPUs: set num_processes to {gpus} for each node"
        )
    if not args.use_cpu and gpus > 1 and state.num_processes == 1:
        raise UserError(
            f"one process, but {gpus} GPUs: start {gpus} with torchrun or accelerate launch (recipes/accelerate), or set "
            "CUDA_VISIBLE_DEVICES=0 to use one"
        )
    check_network(os.environ)
    if state.num_processes > local_processes and state.local_process_index == 0:
        check_same_network()


def check_network(environment: Mapping[str, str]) -> None:
    """Raises UserError where a variable names a network interface that this machine does not have."""
    present = [name for _, name in socket.if_nameindex()]
    for variable in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        value = environment.get(variable, "")
        prefixes = value.removeprefix("=").split(",")
        if value and not value.startswith("^") and not any(name.startswith(p) for p in prefixes for name in present):
            raise UserError(f"{socket.gethostname()}: {variable}={value}, but its interfaces are {', '.join(present)}")


def check_same_network() -> None:
    """Raises UserError on a node that lacks a network variable of the first node. Once a node; uses the store alone."""
    store = distributed.distributed_c10d._get_default_store()
    local = {name: value for name, value in os.environ.items() if name.startswith(NETWORK)}
    if distributed.get_rank() == 0:
        store.set("network", json.dumps(local))
        return
    try:
        first = json.loads(store.get("network"))
    except distributed.DistError:
        raise UserError(f"{socket.gethostname()}: the first node ended; its own error says why") from None
    missing = [f"{name}={value}" for name, value in sorted(first.items()) if name not in local]
    if missing:
        raise UserError(f"{socket.gethostname()}: not set here, but on the first node: {', '.join(missing)}")


def init_deepspeed(args: Any) -> None:
    """Starts DeepSpeed's communication, which ZeRO-3 needs while weights are loaded; nothing for other engines.

    On GPUs accelerate has done it by now; on CPUs it has not.
    """
    if args.deepspeed_plugin is not None:
        from deepspeed import init_distributed

        init_distributed(dist_backend=PartialState().backend, auto_mpi_discovery=False, verbose=False)


def engine_name(trainer: Any) -> str:
    """How the processes share the work, for the log. Raises UserError where the launcher is configured for another way."""
    state = trainer.accelerator.state
    configured = [name for name in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{name}") == "true"]
    engine = "one process" if state.num_processes == 1 else "DDP"
    if trainer.is_deepspeed_enabled:
        engine = f"DeepSpeed ZeRO-{state.deepspeed_plugin.zero_stage}"
    elif trainer.is_fsdp_enabled:
        engine = f"FSDP{state.fsdp_plugin.fsdp_version}"
    if configured and not engine.upper().startswith(configured[0]):
        raise UserError(f"the launcher's configuration names {configured[0]}, but {engine} is used: it needs GPUs")
    return engine if state.num_processes == 1 else f"{engine}, {state.num_processes} processes"


def num_elements(parameter: torch.nn.Parameter) -> int:
    """How many numbers a parameter has: also where ZeRO-3 divided it, or bitsandbytes packed two into a byte."""
    if hasattr(parameter, "ds_numel"):
        return int(parameter.ds_numel)
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def num_parameters(model: torch.nn.Module, trained: bool = False) -> int:
    """How many parameters `model` has in all processes together, or only the `trained` ones."""
    return sum(num_elements(p) for p in model.parameters() if p.requires_grad or not trained)


def destroy_process_group() -> None:
    """Ends the connection of the processes, once all are here; nothing where there is none.

    A process that simply exits while another is at work can abort ("terminate called without an active exception", seen on
    CPUs), and the launcher then kills the one at work.
    """
    if distributed.is_initialized():
        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()


def free_memory_and_shutdown(trainer: Any) -> None:
    """Gives back what training held on the GPU and ends the connection. The trainer cannot be used afterwards."""
    # A colocated vLLM has process groups of its own, which it has to end itself, the processes' common one with them.
    if (engine := getattr(getattr(trainer, "vllm_generation", None), "llm", None)) is not None:
        PartialState().wait_for_everyone()
        engine.llm_engine.engine_core.shutdown()
    trainer.accelerator.free_memory()
    trainer.model = trainer.model_wrapped = trainer.optimizer = None
    gc.collect()
    torch.cuda.empty_cache()
    destroy_process_group()
