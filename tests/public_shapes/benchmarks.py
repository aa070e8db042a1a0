"""The public benchmarks, as published: one function each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pyarrow
from tqdm import tqdm

from tests.public_shapes.draw import SIZE, Candidate, Group, background, draw_group
from tests.public_shapes.files import as_downloaded, encoded, write_parquet

SEED = 4711  # of groups that nobody trains on
MINIMUM_GAP = 0.05
DIMENSIONS = ("prompt_following", "consistency", "overall")
TASK_TYPES = (
    *(
        "background_change",
        "color_alter",
        "style_change",
        "subject-add",
        "subject-remove",
        "subject-replace",
        "text_change",
    ),
    *("tone_transfer", "material_alter", "motion_change", "ps_human", "extract", "compose"),
)


def ranked_groups(
    count: int, candidates: int, seed: int, size: tuple[int, int], name: str
) -> Iterator[tuple[Group, Sequence[Candidate]]]:
    """`count` groups with so many candidates that differ clearly, best first."""
    number = 0
    with tqdm(desc=name, total=count, unit="sample") as bar:
        while bar.n < count:
            group = draw_group(seed, number, size)
            number += 1
            for chosen in combinations(sorted(group.candidates, key=lambda edit: -edit.overall), candidates):
                if all(better.overall - worse.overall >= MINIMUM_GAP for better, worse in pairwise(chosen)):
                    yield group, chosen
                    bar.update()
                    break


def write_merbench(folder: Path, samples: int = 20, seed: int = SEED, size: tuple[int, int] = SIZE) -> None:
    """SpatialReward/MER-Bench: splits 2pair, 3pair and 4pair of `samples` each, ids that start again in each split."""
    from datasets import Features, Image, List, Value

    texts = ("pair_id", "label", "instruction")
    features = Features(
        {name: Value("string") for name in texts} | {"original_image": Image(), "edited_images": List(Image())}
    )
    for count in (2, 3, 4):
        rows = [
            {
                "pair_id": str(index),
                "label": TASK_TYPES[index % 5],
                "instruction": group.instruction,
                "original_image": encoded(group.source),
                "edited_images": [encoded(edit.jpeg) for edit in edits],
            }
            for index, (group, edits) in enumerate(
                ranked_groups(samples, count, seed + count, size, f"{folder} {count}pair")
            )
        ]
        write_parquet(rows, features, folder / "data", f"{count}pair")
    splits = [{"split": f"{count}pair", "path": f"data/{count}pair-*"} for count in (2, 3, 4)]
    as_downloaded(folder, {"configs": [{"config_name": "default", "data_files": splits}]})


def write_editreward_bench(folder: Path, pairs: int = 60, seed: int = SEED, size: tuple[int, int] = SIZE) -> None:
    """EditScore/EditReward-Bench: what `save_to_disk` of an older `datasets` wrote: two Arrow files, `state.json`, a logo.

    A row for each of the three dimensions in turn; the first output is the better one.
    """
    from datasets import Dataset, Features, Image, List, Value

    features = Features(
        {"key": List(Value("string"), length=2), "instruction": Value("string"), "input_image": Image()}
        | {"output_images": List(Image(), length=2), "task_type": Value("string"), "dimension": Value("string")}
    )
    rows = [
        {
            "key": [f"{group.number}_{edit}" for edit in ("a", "b")],
            "instruction": group.instruction,
            "input_image": encoded(group.source),
            "output_images": [encoded(edit.jpeg) for edit in edits],
            "task_type": TASK_TYPES[index // len(DIMENSIONS) % len(TASK_TYPES)],
            "dimension": DIMENSIONS[index % len(DIMENSIONS)],
        }
        for index, (group, edits) in enumerate(ranked_groups(pairs, 2, seed + 10, size, str(folder)))
    ]
    Dataset.from_list(rows, features=features, split="test").save_to_disk(folder, num_shards=2)
    info = folder / "dataset_info.json"
    info.write_text(as_older_datasets(info.read_text()))
    for file in sorted(folder.glob("*.arrow")):
        with pyarrow.ipc.open_stream(file.read_bytes()) as stream:
            table = stream.read_all()
        metadata = {key: as_older_datasets(value.decode()).encode() for key, value in table.schema.metadata.items()}
        with pyarrow.ipc.new_stream(str(file), table.schema.with_metadata(metadata)) as out:
            out.write_table(table)
    (folder / "assets").mkdir()
    background(np.random.default_rng(seed), (64, 96)).save(folder / "assets" / "logo.png")
    as_downloaded(folder)


def as_older_datasets(text: str) -> str:
    """Features as `datasets` before 4.0 named them."""
    return text.replace('"_type": "List"', '"_type": "Sequence"')


def write_tiger_editreward_bench(
    folder: Path, samples: int = 20, seed: int = SEED, size: tuple[int, int] = SIZE
) -> None:
    """TIGER-Lab/EditReward-Bench: a row for each pair of a sample's candidates, `2pair/` to `4pair/` in 1, 2 and 4 files."""
    from datasets import Features, Image, Value

    texts = ("id", "dataset", "instruction", "ranking", "comparison_type", "model_1", "model_2")
    features = Features(
        {name: Value("string") for name in texts}
        | {name: Image() for name in ("source_image", "candidate_1", "candidate_2")}
        | {"num_candidates": Value("int64"), "score_1": Value("float64"), "score_2": Value("float64")}
    )
    rng = np.random.default_rng(seed)
    for count, files in ((2, 1), (3, 2), (4, 4)):
        rows = []
        for group, edits in ranked_groups(samples, count, seed + 20 + count, size, f"{folder} {count}pair"):
            ranks = dict(zip("ABCD", rng.permutation(count).tolist(), strict=False))  # of each letter, 0 the best
            for a, b in combinations(ranks, 2):
                first, second = edits[ranks[a]], edits[ranks[b]]
                tie = count == 2 and group.number % 5 == 4
                rows.append(
                    {
                        "id": f"{group.number:08d}_{a}{b}" if count > 2 else f"{group.number:08d}",
                        "dataset": f"{count}pair",
                        "instruction": group.instruction,
                        "ranking": "A=B" if tie else f"{a}>{b}" if ranks[a] < ranks[b] else f"{b}>{a}",
                        "comparison_type": f"{a}vs{b}",
                        "num_candidates": count,
                        "source_image": encoded(group.source),
                    }
                    | {f"candidate_{i}": encoded(edit.jpeg) for i, edit in ((1, first), (2, second))}
                    | {f"score_{i}": round(8 * edit.overall, 1) for i, edit in ((1, first), (2, second))}
                    | {f"model_{i}": f"editor_{letter}" for i, letter in ((1, a), (2, b))}
                )
        write_parquet(rows, features, folder / f"{count}pair", "train", files)
    as_downloaded(folder)


def write_mmrb2(folder: Path, pairs: int = 20, seed: int = SEED, size: tuple[int, int] = SIZE) -> None:
    """rl-research/multimodal-rewardbench-2: config `edit`, split `test`; one pair in five has two source images."""
    from datasets import Features, Image, List, Value

    texts = (
        *(
            "pair_id",
            "prompt_text",
            "response_a_text",
            "response_b_text",
            "chosen",
            "prompt_source",
            "response_a_model",
        ),
        *("response_b_model", "human_annotations", "prompt_metadata"),
    )
    images = ("prompt_images", "response_a_images", "response_b_images")
    features = Features({name: Value("string") for name in texts} | {name: List(Image()) for name in images})
    rng = np.random.default_rng(seed)
    rows = []
    for group, edits in ranked_groups(pairs, 2, seed + 30, size, str(folder)):
        sources = [group.source] + [draw_group(seed + 31, group.number, size).source] * (group.number % 5 == 0)
        chosen = "AB"[int(rng.integers(2))]
        a, b = edits if chosen == "A" else edits[::-1]
        rows.append(
            {
                "pair_id": f"edit_{group.number}",
                "prompt_text": group.instruction + "".join(f"<image_{i + 1}>" for i in range(len(sources))),
                "prompt_images": [encoded(source) for source in sources],
                "response_a_text": "<image_1>",
                "response_a_images": [encoded(a.jpeg)],
                "response_b_text": "<image_1>",
                "response_b_images": [encoded(b.jpeg)],
                "chosen": chosen,
                "prompt_source": "several" if len(sources) > 1 else "drawn",
                "response_a_model": "editor_a",
                "response_b_model": "editor_b",
                "human_annotations": json.dumps({"votes": [chosen] * 3}),
                "prompt_metadata": "{}",
            }
        )
    write_parquet(rows, features, folder / "edit", "test")
    files = [{"split": "test", "path": "edit/test-*"}]
    as_downloaded(folder, {"license": "cc-by-nc-4.0", "configs": [{"config_name": "edit", "data_files": files}]})
