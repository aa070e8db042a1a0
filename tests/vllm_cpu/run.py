"""Runs a module with vLLM's CPU build, set up as a CPU needs it; writes what vLLM saw and what the trainer scored.

    .venv-vllm/bin/python -m tests.vllm_cpu.run FOLDER grpo --config FILE

Each process writes `record-RANK.json` into FOLDER. With STALE=1 in the environment, vLLM's weights stay what they were when it
started.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

import torch
import vllm
from vllm.model_executor.layers import utils

RECORD: dict[str, list] = {"seen": [], "scored": [], "difference": [], "changed": []}


class RecordedLLM(vllm.LLM):
    """vLLM in float32, which by itself takes bfloat16 for such a checkpoint; keeps the ids of its prompts."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **{**options, "dtype": "float32", "enforce_eager": True})

    def generate(self, *arguments, **options):
        outputs = super().generate(*arguments, **options)
        RECORD["seen"] += [list(output.prompt_token_ids) for output in outputs]
        return outputs


def plain_layer(layer, remove_weight):
    """vLLM repacks the weights of a layer for CPUs, and new ones could not be loaded into it."""
    layer.cpu_linear = torch.nn.functional.linear


def record_rollouts() -> None:
    from trl import GRPOTrainer

    score, train = GRPOTrainer._generate_and_score_completions, GRPOTrainer.train

    def recorded(self, inputs):
        output = score(self, inputs)
        pairs = zip(output["prompt_ids"], output["prompt_mask"].bool(), strict=True)
        RECORD["scored"] += [ids[mask].tolist() for ids, mask in pairs]
        RECORD["difference"].append(self._metrics["train"]["sampling/sampling_logp_difference/mean"][-1])
        return output

    def trained(self, *arguments, **options):
        frozen = [weight for weight in self.model.parameters() if not weight.requires_grad]
        before = [weight.clone() for weight in frozen]
        result = train(self, *arguments, **options)
        pairs = zip(frozen, before, strict=True)
        RECORD["changed"].append(sum(int((weight != other).sum()) for weight, other in pairs))
        return result

    GRPOTrainer._generate_and_score_completions, GRPOTrainer.train = recorded, trained


def keep_weights_here() -> None:
    """A server's weights are sent by NCCL, which needs GPUs: here they stay what they were."""
    from trl.generation.vllm_client import VLLMClient

    VLLMClient.init_communicator = lambda *arguments, **options: None
    VLLMClient.update_named_params = lambda self, metadata, parameters: [None for _ in parameters]


if __name__ == "__main__":
    utils.dispatch_cpu_unquantized_gemm = plain_layer
    vllm.LLM = RecordedLLM
    record_rollouts()
    keep_weights_here()
    if os.environ.get("STALE"):
        from trl.generation.vllm_generation import VLLMGeneration

        VLLMGeneration.sync_weights = lambda self: None
    folder, module = Path(sys.argv[1]), sys.argv[2]
    del sys.argv[1:3]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        (folder / f"record-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(RECORD))
