"""Where completions come from: a checkpoint through transformers or vLLM, or a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from spatial_edit_reward import Spec, load_spec
from spatial_edit_reward.errors import UserError, one_line
from spatial_edit_reward.inference.dedup import Usage, deduplicated
from spatial_edit_reward.inference.request import Backend, Sampling
from spatial_edit_reward.spec import FILE_NAME

BackendName = Literal["transformers", "vllm", "openai"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)


class Endpoint(NamedTuple):
    """How requests are sent to an endpoint; its address is in OPENAI_BASE_URL, its key in OPENAI_API_KEY.

    `deadline`: seconds for one request, all `retries` included. `prices`: USD per million prompt and completion tokens.
    `extra_body`: further fields of a request, such as {"max_completion_tokens": 4096} in the place of the spec's limit, for
    models that think first, or another "temperature".
    """

    retries: int = 5
    deadline: float = 120.0
    prices: tuple[float, float] | None = None
    extra_body: Mapping[str, Any] = {}


DEFAULT_ENDPOINT = Endpoint()


def open_backend(
    backend: str,
    model: str,
    spec: Spec,
    *,
    batch_size: int,
    adapter: Path | None = None,
    samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    expected_score: bool = False,
    endpoint: Endpoint = DEFAULT_ENDPOINT,
) -> Backend:
    """A backend of `model` (folder, Hub id, or name at the endpoint) with the prompts, pixels and lengths of `spec`.

    The model is loaded at the first request. Requests that are the same are sent once, also from one call to the next. When
    the process ends, a line on stderr says how many requests and tokens it took and, at an endpoint with prices, the cost.

    Args:
        batch_size: requests in a batch of `transformers`, in flight at an endpoint; vLLM gets 16 times as many at a time.
        adapter: folder of a LoRA adapter on `model`; at an endpoint it is the name that is asked for.
        samples: how many completions of a prompt are wanted, above 1 with a `temperature` above 0 only.
        temperature: 0 is greedy.
        top_p: the share of probability that tokens are drawn from, 0..1.
        seed: of sampling, together with what is asked; an endpoint does not get it.
        expected_score: also the scores expected by the score tokens' probabilities; `transformers` only.

    Raises UserError for options that do not go together, and, at the first request, for a model that cannot be used.

    Example:
        >>> backend = open_backend("transformers", "runs/tiny/merge", spec, batch_size=8)  # doctest: +SKIP
        >>> request = Request("a", "sc", "Remove the cup.", [source, edited])  # doctest: +SKIP
        >>> [(request, response)] = backend([request])  # doctest: +SKIP
    """
    if samples > 1 and temperature == 0:
        raise UserError(f"{samples} samples at temperature 0 would all be the same: give a temperature above 0")
    if expected_score and backend != "transformers":
        raise UserError(f"expected scores need the model's probabilities: --backend transformers, not {backend}")
    if backend not in BACKENDS:
        raise UserError(f"{backend}: no such backend; there are {', '.join(BACKENDS)}")
    sampling = Sampling(temperature, top_p) if temperature > 0 else None

    @cache
    def load() -> Backend:
        if backend == "transformers":
            from spatial_edit_reward.inference.transformers_backend import open_transformers

            return open_transformers(model, adapter, spec, batch_size, sampling, seed, expected_score)
        if backend == "vllm":
            from spatial_edit_reward.inference.vllm_backend import open_vllm

            return open_vllm(model, adapter, spec, batch_size, sampling, seed)
        try:
            from spatial_edit_reward.inference.openai_backend import open_openai
        except ImportError as error:
            raise UserError(f"an endpoint needs the package {error.name}: pip install '.[judge]'") from None
        return open_openai(str(adapter or model), spec, batch_size, sampling, endpoint)

    usage = Usage()
    atexit.register(
        lambda: print(f"{model}: {usage.summary(endpoint.prices)}", file=sys.stderr) if usage.sent else None
    )
    return deduplicated(lambda requests: load()(requests), spec, temperature, usage)


def load_model_spec(model: str, folder: Path | None) -> Spec:
    """The spec in `folder` (which may be its verdict.json), else the one beside the checkpoint `model`, a folder or a Hub id.

    Raises UserError or SpecError where there is none.
    """
    if folder is not None:
        return load_spec(folder.parent if folder.name == FILE_NAME else folder)
    if Path(model).is_dir():
        return load_spec(Path(model))
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        file = hf_hub_download(model, FILE_NAME)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise UserError(
            f"{model}: no {FILE_NAME} with it, so its prompts and limits are unknown: name a folder that has one (--spec); "
            f"{one_line(error, 160)}"
        ) from None
    return load_spec(Path(file).parent)
