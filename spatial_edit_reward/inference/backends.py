"""Where verdicts come from: a checkpoint through transformers or vLLM, or a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from spatial_edit_reward import Spec, load_spec
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.request import Backend
from spatial_edit_reward.spec import FILE_NAME

BACKENDS = ("transformers", "vllm", "openai")


class Endpoint(NamedTuple):
    """How an endpoint is asked; its address is in OPENAI_BASE_URL, its key in OPENAI_API_KEY.

    `deadline`: seconds for one question, all `retries` included. `prices`: dollars per million prompt and completion tokens.
    `extra_body`: further fields of a request, such as {"max_completion_tokens": 4096} in the place of the spec's limit, for
    models that think first, or another "temperature".
    """

    retries: int = 5
    deadline: float = 120.0
    prices: tuple[float, float] | None = None
    extra_body: Mapping[str, Any] = {}


def open_backend(
    backend: str,
    model: str,
    spec: Spec,
    *,
    batch_size: int,
    samples: int = 1,
    temperature: float = 0.0,
    expected_score: bool = False,
    endpoint: Endpoint | None = None,
) -> Backend:
    """Asks `model` (folder, Hub id, or name at the endpoint) with the prompts, pixels and lengths of `spec`.

    `batch_size`: questions in a batch of `transformers`, under way at once at an endpoint; vLLM makes its own batches out of 16
    times as many. Questions that would be sent alike are sent once, also from one call to the next. A call looks at 16 batches
    of its questions at a time: a sequence that opens its pictures when it is indexed is never in memory as a whole. When the
    process ends, a line on stderr says how many requests and tokens it took and, at an endpoint with prices, what they cost.

    Raises UserError for a model that cannot be used or options that do not go together.
    """
    from spatial_edit_reward.inference.dedup import Usage, once

    if samples > 1 and temperature == 0:
        raise UserError(f"{samples} samples at temperature 0 would all be the same: give a temperature above 0")
    if expected_score and backend != "transformers":
        raise UserError(f"expected scores need the model's probabilities: --backend transformers, not {backend}")
    if backend == "transformers":
        from spatial_edit_reward.inference.transformers_backend import open_transformers

        ask = open_transformers(model, spec, batch_size, temperature, expected_score)
    elif backend == "vllm":
        from spatial_edit_reward.inference.vllm_backend import open_vllm

        ask = open_vllm(model, spec, temperature)
    elif backend == "openai":
        try:
            from spatial_edit_reward.inference.openai_backend import open_openai
        except ImportError as error:
            raise UserError(f"an endpoint needs the package {error.name}: pip install '.[judge]'") from None

        ask = open_openai(model, spec, batch_size, temperature, endpoint or Endpoint())
    else:
        raise UserError(f"{backend}: no such backend; there are {', '.join(BACKENDS)}")
    usage, prices = Usage(), endpoint.prices if endpoint else None
    atexit.register(lambda: print(f"{model}: {usage.line(prices)}", file=sys.stderr) if usage.questions else None)
    return once(ask, spec, temperature, 16 * batch_size, usage)


def load_model_spec(model: str, named: Path | None) -> Spec:
    """The spec in `named` (a folder, or its verdict.json), else the one beside the checkpoint `model`, a folder or a Hub id.

    Raises UserError or SpecError where there is none.
    """
    if named is not None:
        return load_spec(named.parent if named.name == FILE_NAME else named)
    if Path(model).is_dir():
        return load_spec(Path(model))
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        file = hf_hub_download(model, FILE_NAME)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise UserError(
            f"{model}: no {FILE_NAME} with it, so its prompts and limits are unknown: name a folder that has one (--spec); "
            f"{' '.join(str(error).split())[:160]}"
        ) from None
    return load_spec(Path(file).parent)
