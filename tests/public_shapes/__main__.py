"""Writes the folder `raw` of recipes/spatialreward-8b/data.yaml, every dataset as published, from drawn images."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.public_shapes.benchmarks import (
    write_editreward_bench,
    write_merbench,
    write_mmrb2,
    write_tiger_editreward_bench,
)
from tests.public_shapes.draw import SIZE, SMALL
from tests.public_shapes.training import write_editreward_data, write_editscore_reward_data, write_spatialreward_train


def write_raw(folder: Path, rows: int = 120, seed: int = 0, size: tuple[int, int] = SIZE) -> None:
    """Everything: `rows` edits of each dataset that is trained on, a sixth as many samples of each benchmark and size."""
    samples = max(1, rows // 6)
    write_spatialreward_train(folder / "SpatialReward-Train", rows, seed, size)
    write_editscore_reward_data(folder / "EditScore-Reward-Data", rows, seed, size)
    write_editreward_data(folder / "EditReward-Data", rows, seed, size)
    write_editreward_bench(folder / "EditReward-Bench", 3 * samples, size=size)
    write_merbench(folder / "MER-Bench", samples, size=size)
    write_tiger_editreward_bench(folder / "TIGER-EditReward-Bench", samples, size=size)
    write_mmrb2(folder / "MMRB2", samples, size=size)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.public_shapes", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--rows", type=int, default=120, help="edits of each dataset trained on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, help="shorter and longer side (default: 512 768)")
    parser.add_argument("--small", action="store_true", help=f"images of {SMALL[0]} x {SMALL[1]} pixels, in seconds")
    arguments = parser.parse_args()
    size = SMALL if arguments.small else tuple(arguments.size)
    write_raw(arguments.folder, arguments.rows, arguments.seed, size)


if __name__ == "__main__":
    main()
