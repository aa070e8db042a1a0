"""The datasets that are trained on, as published: one function each."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from spatial_edit_reward.schema import TAG
from tests.public_shapes.draw import SIZE, Candidate, Group, draw_edits, draw_group
from tests.public_shapes.files import as_downloaded, cut, encoded, tar_of, write_parquet
from tests.public_shapes.prompts import EDITSCORE_PQ, EDITSCORE_SC, SPATIAL_PQ, SPATIAL_SC

# Group numbers of what a dataset shares with no other.
RL, EDITSCORE, EDITREWARD = 10_000, 20_000, 30_000
SFT_PARTS = [f"images_part_a{letter}" for letter in "abcdefghijklm"]
EDITSCORE_PARTS = [f"images_part_{number:02d}" for number in range(16)]


def number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def box_in(box: Sequence[float], box_format: str, size: tuple[int, int]) -> list[float]:
    """A box in 0..1000 in another convention, for an image of `size` (width, height) pixels."""
    x1, y1, x2, y2 = box
    width, height = size
    pixels = [round(x1 * width / 1000), round(y1 * height / 1000), round(x2 * width / 1000), round(y2 * height / 1000)]
    return {
        "xyxy_1000": [*box],
        "xyxy_1": [value / 1000 for value in box],
        "xyxy_pixel": pixels,
        "xywh_pixel": [*pixels[:2], pixels[2] - pixels[0], pixels[3] - pixels[1]],
        "yxyx_1000": [y1, x1, y2, x2],
    }[box_format]


def spatial_answer(task: str, edit: Candidate, box_format: str) -> str:
    """The verdict of an edit as JSON text, over several lines as the prompt shows it."""
    reference = edit.sc if task == "sc" else edit.pq
    lines = []
    if task == "sc":
        regions = [
            region | {"bbox_2d": box_in(region["bbox_2d"], box_format, edit.size)}
            for region in reference["edit_region"]
        ]
        lines.append(f'"edit_region": {json.dumps(regions, ensure_ascii=False)}')
    lines.append(f'"reasoning": {json.dumps(reference["reasoning"], ensure_ascii=False)}')
    lines.append(f'"score": {[number(score) for score in reference["score"]]}')
    return "{\n" + ",\n".join(lines) + "\n}"


def write_spatialreward_train(
    folder: Path,
    edits: int = 60,
    seed: int = 0,
    size: tuple[int, int] = SIZE,
    box_format: str = "xyxy_1000",
    score_range: float = 25,
    keys: Mapping[str, str] | None = None,
) -> None:
    """SpatialReward/SpatialReward-Train: an `sc` and a `pq` row for each of `edits` in `sft`, answerless rows in `rl`.

    `rl` has rows of a third of the same edits, and of a sixth as many edits that `sft` has not. `box_format`, `score_range`
    (its upper bound) and `keys` (ours -> other) make files that break an assumption.
    """
    keys = {"image": "image", "conversations": "conversations"} | dict(keys or {})
    (folder / "sft").mkdir(parents=True)
    (folder / "rl").mkdir()
    chosen = list(tqdm(draw_edits(seed, 0, edits, size), desc=str(folder), total=edits, unit="edit"))
    images: dict[str, bytes] = {}
    with (folder / "sft" / "data.jsonl").open("w", encoding="utf-8") as out:
        for row, (group, edit, task) in enumerate((*pair, task) for pair in chosen for task in ("sc", "pq")):
            names = add_images(images, row, group, edit, task)
            answer = spatial_answer(task, edit, box_format)
            if score_range != 25:
                answer = re.sub(r"(?<=\"score\": )\[.*\]", lambda match: scaled(match[0], score_range / 25), answer)
            turns = [
                {"from": "human", "value": "<image>" * len(names) + spatial_prompt(group, task)},
                {"from": "gpt", "value": answer},
            ]
            content = {keys["image"]: names if task == "sc" else names[0], keys["conversations"]: turns}
            out.write(json.dumps(content, ensure_ascii=False) + "\n")
    cut(tar_of(images), [folder / "sft" / name for name in SFT_PARTS])

    images, rows = {}, []
    others = list(draw_edits(seed, RL, edits // 6, size))
    for group, edit, task in ((*pair, task) for pair in [*chosen[: edits // 3], *others] for task in ("sc", "pq")):
        names = add_images(images, len(rows), group, edit, task)
        content = {
            keys["image"]: names,
            "messages": [{"role": "user", "content": "<image>" * len(names) + spatial_prompt(group, task)}],
            "instruction": group.instruction,
            "solution": task,
        }
        rows.append(content if len(rows) % 4 else {"id": f"{group.number}_{task}", **content})
    (folder / "rl" / "data.json").write_text(json.dumps(rows, ensure_ascii=False, indent=2), encoding="utf-8")
    (folder / "rl" / "images.tar").write_bytes(tar_of(images))
    as_downloaded(folder)


def spatial_prompt(group: Group, task: str) -> str:
    return SPATIAL_PQ if task == "pq" else SPATIAL_SC.replace("{instruction}", group.instruction)


def add_images(images: dict[str, bytes], row: int, group: Group, edit: Candidate, task: str) -> list[str]:
    """Adds the images of a row as `images/ROW_0.jpg` and so on, and returns their names."""
    contents = [group.source, edit.jpeg] if task == "sc" else [edit.jpeg]
    named = {f"images/{row}_{index}.jpg": content for index, content in enumerate(contents)}
    images |= named
    return list(named)


def scaled(scores: str, factor: float) -> str:
    return str([round(score * factor, 2) for score in json.loads(scores)])


def write_editscore_reward_data(folder: Path, edits: int = 60, seed: int = 0, size: tuple[int, int] = SIZE) -> None:
    """EditScore/EditScore-Reward-Data: `reward.json` in ShareGPT's form, images in one .tar.gz cut into numbered parts.

    A quarter of the edits are SpatialReward-Train's too, which is derived from it. Reasoning cites no region.
    """
    folder.mkdir(parents=True)
    shared = edits // 4
    images: dict[str, bytes] = {}
    rows: list[dict[str, Any]] = []
    chosen = [*draw_edits(seed, edits // 3, shared, size), *draw_edits(seed, EDITSCORE, edits - shared, size)]
    for group, edit in tqdm(chosen, desc=str(folder), unit="edit"):
        for task, prompt in (("sc", EDITSCORE_SC), ("pq", EDITSCORE_PQ)):
            names = add_images(images, len(rows), group, edit, task)
            reference = edit.sc if task == "sc" else edit.pq
            reasoning = " ".join(TAG.sub("", reference["reasoning"]).split())
            answer = {"reasoning": reasoning, "score": [number(score) for score in reference["score"]]}
            question = "<image>" * len(names) + prompt.replace("{instruction}", group.instruction)
            turns = [
                {"from": "human", "value": question},
                {"from": "gpt", "value": json.dumps(answer, ensure_ascii=False)},
            ]
            rows.append({"conversations": turns, "images": names})
    (folder / "reward.json").write_text(json.dumps(rows, ensure_ascii=False, indent=2), encoding="utf-8")
    cut(gzip.compress(tar_of(images), compresslevel=1, mtime=0), [folder / name for name in EDITSCORE_PARTS])
    as_downloaded(folder)


def human_score(score: float) -> float:
    """A score of 0..25 on people's scale of 1..4."""
    return float(round(1 + 3 * score / 25))


def write_editreward_data(folder: Path, pairs: int = 60, seed: int = 0, size: tuple[int, int] = SIZE) -> None:
    """TIGER-Lab/EditReward-Data: `data/train-*.parquet`, two edits of one source a row, images in it.

    A quarter of the groups are SpatialReward-Train's too, and every fourth row is of the same group as the one before it, with
    one of the two candidates again.
    """
    from datasets import Features, Image, Value

    shared = pairs // 4
    texts = (
        "key",
        "unique_key",
        "instruction",
        "left_model",
        "right_model",
        "vote_type",
        "left_img_rel",
        "right_img_rel",
    )
    scores = [
        f"{side}_{of}_score" for side in SIDES for of in ("overall", "instruction_following", "quality_aesthetic")
    ]
    features = Features(
        {name: Value("string") for name in texts}
        | {name: Value("int32") for name in ("pair_index", "metadata_index")}
        | {name: Image() for name in ("source_img", "left_output_image", "right_output_image")}
        | {name: Value("float32") for name in scores}
    )
    rows: list[dict[str, Any]] = []
    for index in tqdm(range(pairs), desc=str(folder), unit="pair"):
        again = index % 4 == 3
        group_index = index - again
        first = pairs // 2 if group_index < shared else EDITREWARD
        rows.append(pair_row(draw_group(seed, first + group_index, size), index, int(again)))
    write_parquet(rows, features, folder / "data", "train", files=2)
    kinds = features.to_dict()
    info = {"features": [{"name": name, "dtype": kinds[name].get("dtype", "image")} for name in kinds]}
    info["splits"] = [{"name": "train", "num_bytes": 338525.312, "num_examples": len(rows)}]
    files = [{"split": "train", "path": "data/train-*"}]
    as_downloaded(folder, {"dataset_info": info, "configs": [{"config_name": "default", "data_files": files}]})


SIDES = ("left", "right")


def pair_row(group: Group, index: int, first: int) -> dict[str, Any]:
    """The row of candidates `first` and `first` + 1 of a group."""
    row: dict[str, Any] = {
        "key": f"{group.number:032x}",
        "unique_key": f"{group.number:032x}_{first}",
        "pair_index": index,
        "metadata_index": index,
        "instruction": group.instruction,
        "source_img": encoded(group.source),
    }
    overall = []
    for side, edit in zip(SIDES, group.candidates[first : first + 2], strict=True):
        following, quality = human_score(min(edit.sc["score"])), human_score(sum(edit.pq["score"]) / 2)
        overall.append(following + quality)
        row |= {
            f"{side}_output_image": encoded(edit.jpeg),
            f"{side}_model": f"editor_{side}",
            f"{side}_img_rel": f"{group.number:032x}/{side}.png",
            f"{side}_overall_score": following + quality,
            f"{side}_instruction_following_score": following,
            f"{side}_quality_aesthetic_score": quality,
        }
    left, right = overall
    return row | {"vote_type": "tie" if left == right else "leftvote" if left > right else "rightvote"}
