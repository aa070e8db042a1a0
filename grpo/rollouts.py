"""What vLLM samples from in stage 2: the same prompts and the same weights as the trainer scores, checked at every rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from trl.generation.vllm_generation import VLLMGeneration

from spatial_edit_reward.errors import UserError


def collapse(ids: Sequence[int], token: int) -> list[int]:
    """`ids` with one `token` for each run of it.

    >>> collapse([1, 7, 7, 7, 2, 7, 7, 3], token=7)
    [1, 7, 2, 7, 3]
    """
    return [each for each, run in groupby(ids) for each in ([each] if each == token else run)]


def run_lengths(ids: Sequence[int], token: int) -> list[int]:
    """The length of each run of `token` in `ids`: how many tokens each image has."""
    return [len(list(run)) for each, run in groupby(ids) if each == token]


class Rollouts(VLLMGeneration):
    """TRL's vLLM, given prompts that it reads as the trainer does, and weights that a synchronization leaves as they were.

    - TRL 1.16 hands a colocated engine prompts in which an image's token stands as often as the image has tokens, and vLLM
      repeats it again: two images of 16 tokens came out as 46 and 16. One token an image is what it expects.
    - An adapter is merged for each synchronization and then subtracted again, which in bf16 does not give the weights back
      (trl#6688): after the 8B recipe's steps they would be off by a quarter of what the adapter had learned.
    - vLLM keeps what its vision tower made of an image: stale where the tower itself is trained.
    """

    def generate(self, prompts: list[list[int]], images: Any, **options: Any) -> tuple[Any, ...]:
        """As TRL's. Raises UserError where vLLM saw other ids than `prompts`, which the trainer scores."""
        needed = max(map(len, prompts)) + self.max_completion_length
        if self.mode == "colocate" and self.max_model_length is not None and needed > self.max_model_length:
            raise UserError(
                f"vllm_max_model_length: {self.max_model_length}, but prompt and answer take {needed} tokens, and vLLM would "
                "cut the answer: raise it"
            )
        token = self.processing_class.image_token_id
        sent = [collapse(ids, token) for ids in prompts] if self.mode == "colocate" else prompts
        outputs: tuple[Any, ...] = super().generate(sent, images, **options)
        for ids, seen in zip(prompts, outputs[0], strict=True):
            if list(seen) != list(ids):
                raise other_images(run_lengths(seen, token), run_lengths(ids, token))
        return outputs

    def _place_features(self, features: Mapping[str, Any] | None, prompt_ids: list[int]) -> Any:
        # A server returns the ids that it was sent, so what can be compared is how many tokens it makes of each image.
        placed = super()._place_features(features, prompt_ids)
        if features is not None:
            made, scored = ([each["length"] for each in by["mm_placeholders"]["image"]] for by in (features, placed))
            if made != scored:
                raise other_images(made, scored)
        return placed

    def sync_weights(self) -> None:
        """As TRL's, after which the model has the very weights it had."""
        merged = [weight for name, weight in self.model.named_parameters() if ".base_layer." in name]
        kept = [weight.detach().clone() for weight in merged]
        super().sync_weights()
        with torch.no_grad():
            for weight, before in zip(merged, kept, strict=True):
                weight.copy_(before)
        if self.mode == "colocate":
            self.llm.llm_engine.reset_encoder_cache()
        elif self.accelerator.is_main_process:
            self.vllm_client.session.post(f"{self.vllm_client.base_url}/reset_encoder_cache").raise_for_status()


def other_images(seen: list[int], scored: list[int]) -> UserError:
    """The error where vLLM's prompt is not the trainer's, by the tokens of each image in both."""
    return UserError(
        f"vLLM saw another prompt than the trainer scores: images of {seen} tokens for {scored}; give the processor beside "
        "vLLM's weights the pixel limits of verdict.json (processor_config.json: size)"
    )


def check_logp_difference(output: Mapping[str, torch.Tensor], accelerator: Any, bound: float) -> float:
    """The mean of |log p sampled - log p recomputed| over the sampled tokens of all processes.

    `output` is what TRL's `_generate_and_score_completions` returns. Raises UserError above `bound`, and for NaN.
    """
    difference = (output["old_per_token_logps"] - output["sampling_per_token_logps"]).abs()
    difference = difference[output["completion_mask"].bool()].double()
    total, count = (
        accelerator.gather(torch.stack([difference.sum(), difference.new_tensor(len(difference))])).view(-1, 2).sum(0)
    )
    mean = (total / count.clamp(min=1)).item()
    if not mean <= bound:
        raise UserError(
            f"mean |log p sampled - log p recomputed| is {mean:.3g}, above max_logp_difference {bound:g}: vLLM samples from "
            "other weights than the trainer's; set vllm_enable_sleep_mode: false, or a higher bound where top_p, top_k or a "
            "repetition penalty explain it"
        )
    return mean
