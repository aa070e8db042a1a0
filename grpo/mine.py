"""`make mine`: samples stage 1's model on the `rl` rows, and keeps those it finds hard but not hopeless, for stage 2.

python -m grpo.mine --config recipes/tiny/mine.yaml
torchrun --nproc_per_node 8 -m grpo.mine --config recipes/spatialreward-8b/mine.yaml

Samples are stored by model, sampling and row: what is there is not generated again, after a kill as after a change of
thresholds or data. After a kill the batches are others, so what was not yet there may be sampled differently than without.
With `backend: vllm` one process is enough; it needs the extra `vllm`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from grpo.hard_rows import hard_rows, make_report, print_histogram, sample_rewards
from pipeline.fingerprint import hash_model, hash_rows
from pipeline.folders import require, stage_output
from pipeline.recipe import load_config, read_yaml
from pipeline.rewards import require_applicable, require_rewards
from rewards_fn.load import Selected
from spatial_edit_reward import Spec, load_spec
from spatial_edit_reward.errors import UserError, one_line_errors
from spatial_edit_reward.files import write_json
from spatial_edit_reward.inference.backends import BackendName, open_backend
from spatial_edit_reward.inference.request import Request
from spatial_edit_reward.inference.store import Name, create, generate_missing, read_responses
from spatial_edit_reward.spec import FILE_NAME

if TYPE_CHECKING:
    from data.stored_rows import StoredRows


class MineConfig(BaseModel):
    """`mine.yaml`: how stage 1's model is sampled, and which rows are kept."""

    model_config = ConfigDict(extra="forbid")
    run_dir: Annotated[Path, Field(description="folder of the recipe's stages: runs/NAME")]
    rewards_from: Annotated[Path, Field(description="the grpo.yaml whose rewards and weights are used")]
    backend: Annotated[BackendName, Field(description="what generates the samples")] = "transformers"
    samples: Annotated[int, Field(ge=2, description="completions per row")]
    temperature: Annotated[float, Field(gt=0)]
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_mean_reward: Annotated[float, Field(ge=0, le=1, description="a row below earns nothing: hopeless")]
    max_mean_reward: Annotated[float, Field(ge=0, le=1, description="a row above is easy")]
    min_reward_std: Annotated[float, Field(ge=0, le=1, description="standard deviation over a row's samples")]
    max_rows: Annotated[int, Field(gt=0, description="rows kept, lowest means first")] = 7000
    max_candidates: Annotated[
        int | None, Field(gt=0, description="rows sampled, as many of each source and number of regions as there are")
    ] = None
    batch_size: Annotated[int, Field(gt=0, description="completions generated at once")]
    seed: int = 0


def choose_candidates(rows: StoredRows, count: int | None, seed: int) -> StoredRows:
    """At most `count` rows, drawn by `seed`: as many of every source and number of regions, or all that it has."""
    import numpy as np

    if count is None or len(rows) <= count:
        return rows
    strata = [stratum(row) for row in rows.texts()]
    order, drawn, ranks = np.random.default_rng(seed).permutation(len(rows)), Counter[Any](), []
    for index in order:
        ranks.append(drawn[strata[index]])  # rows of its stratum that were drawn before it
        drawn[strata[index]] += 1
    chosen = rows.select(np.sort(order[np.argsort(ranks, kind="stable")][:count]))
    print(f"sampling {count:,} of {len(rows):,} rows, of {len(drawn)} kinds (source, task, number of regions) alike")
    return chosen


def stratum(row: Mapping[str, Any]) -> tuple[str, str, int | None]:
    """Source, task and number of regions of a row: None where they are unknown, 3 for more."""
    regions = row["reference"]["edit_region"]
    return row["source"], row["task"], None if regions is None else min(len(regions), 3)


def row_keys(rows: StoredRows) -> list[str]:
    """A hash of each row's task, instruction and image bytes: what the model's completions depend on."""
    keys = []
    for row in map(rows.encoded, range(len(rows))):
        digest = hashlib.blake2b(f"{row['task']}\0{row['instruction']}".encode(), digest_size=12)
        for image in row["images"]:
            digest.update(image["bytes"])
        keys.append(digest.hexdigest())
    return keys


def write_samples(
    config: MineConfig, model: Path, weights: str, rows: StoredRows, keys: list[str], spec: Spec, folder: Path
) -> Path:
    """The file in `folder` with the samples of `model`, whose hash is `weights`; those that it lacks are generated.

    Several processes share the work. Raises UserError where samples stay missing.
    """
    indices = {key: index for index, key in enumerate(keys)}
    row_at = lru_cache(maxsize=1)(rows.__getitem__)  # its images are decoded once for all samples

    def make_request(name: Name) -> Request:
        row = row_at(indices[name[0]])
        return Request(name[0], row["task"], row["instruction"], row["images"], name[1])

    how = config.model_dump(include={"backend", "temperature", "top_p", "seed"})
    file = folder / f"{weights}-{'-'.join(map(str, how.values()))}.jsonl"
    create(file, {"model": weights, **how, "spec": spec.model_dump(mode="json")})
    backend = open_backend(model=str(model), spec=spec, batch_size=config.batch_size, samples=config.samples, **how)
    names = [(key, sample) for key in indices for sample in range(config.samples)]
    generate_missing(file, names, make_request, backend, config.batch_size, "samples")
    if missing := set(names) - set(read_responses(file)):
        raise UserError(f"{file}: {len(missing)} of {len(names)} samples missing: run the same command to ask again")
    return file


def select_rows(
    config: MineConfig, model: Path, rows: StoredRows, keys: list[str], file: Path, selected: Selected, output: Path
) -> None:
    """Writes `rl.parquet` with the rows that are kept, the spec and `mine_report.json` into `output`; prints a histogram.

    Raises UserError where no row is kept.
    """
    responses = read_responses(file)
    samples = [[responses[key, sample]["text"] for sample in range(config.samples)] for key in keys]
    images = rows.images(config.samples)
    values = sample_rewards(list(rows.texts()), samples, selected.rewards, selected.weights, images)
    limits = config.model_dump(include={"min_mean_reward", "max_mean_reward", "min_reward_std", "max_rows"})
    kept = hard_rows(values, **limits)
    report = make_report(values, kept)
    write_json(output / "mine_report.json", report)
    print_histogram(report)
    if not len(kept):
        raise UserError(
            f"no row has a mean reward in {config.min_mean_reward:g}..{config.max_mean_reward:g} and a standard deviation of "
            f"at least {config.min_reward_std:g}: see {output / 'mine_report.json'}"
        )
    shutil.copyfile(model / FILE_NAME, output / FILE_NAME)
    partial = output / "rl.parquet.partial"
    rows.select(kept).write(partial)
    os.replace(partial, output / "rl.parquet")
    print(f"{len(kept)} of {len(rows)} rows kept: {output / 'rl.parquet'} (data_dir: {output} in grpo.yaml)")


def mine(config: MineConfig, overwrite: bool) -> None:
    """Samples and selects, in every process of a launch; the main one selects. Raises UserError."""
    model = require(config.run_dir / "sft" / "merged", "sft")
    rows_file = require(config.run_dir / "data" / "rl.parquet", "data")
    spec = load_spec(model)
    selected, weights = require_rewards(config.rewards_from, score_range=spec.score_range), hash_model(str(model))

    import torch
    from accelerate import PartialState

    from data.rows import load_rows
    from pipeline.distributed import destroy_process_group, on_main_process

    # By default accelerate takes two processes on CPUs for two runs of one process each.
    state = PartialState(cpu=not torch.cuda.is_available())
    if config.backend == "vllm" and state.num_processes > 1:
        raise UserError("backend: vllm: start one process (make mine); several would all take the first GPU")

    def fingerprint() -> dict[str, Any]:
        return {
            "recipe": config.model_dump(mode="json", exclude={"batch_size", "run_dir"}),
            "rewards": [read_yaml(config.rewards_from).get("reward_funcs"), selected.weights],
            "rows": hash_rows(rows_file),
            "model": weights,
        }

    made = ["rl.parquet", FILE_NAME]
    with stage_output(
        config.run_dir / "mine", fingerprint, overwrite=overwrite, rebuild=True, outputs=made, on_main=on_main_process
    ) as output:
        if output is not None:
            rows = load_rows(rows_file, spec)
            if not len(rows):
                raise UserError(f"{rows_file}: no rows, so there is nothing to sample")
            require_applicable(selected.rewards, rows.texts(), rows_file)
            rows = choose_candidates(rows, config.max_candidates, config.seed)
            keys = on_main_process(lambda: row_keys(rows))  # it reads every image
            file = write_samples(config, model, weights, rows, keys, spec, output / "samples")
        destroy_process_group()
        if output is not None and state.is_main_process:
            select_rows(config, model, rows, keys, file, selected, output)


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m grpo.mine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="the recipe's mine.yaml")
    parser.add_argument("--overwrite", action="store_true", help="start over, samples included")
    arguments = parser.parse_args()
    mine(load_config(arguments.config, MineConfig), arguments.overwrite)


if __name__ == "__main__":
    main()
