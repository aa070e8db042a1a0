"""Canonical rows on disk, and the prompts and completions made of them by the real processor."""

import pytest

from data.rows import features, for_training, load_rows, row_error
from spatial_edit_reward import load_spec, parse
from spatial_edit_reward.errors import UserError

GOOD = {
    "id": "a",
    "task": "sc",
    "instruction": "x",
    "images": [1, 2],
    "reference": {
        "edit_region": [{"id": 0, "label": "cup", "bbox_2d": [0, 0, 9, 9]}],
        "score": [1.0, 2.0],
        "reasoning": "r",
    },
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"task": "zz"}, "task 'zz'"),
        ({"images": [1]}, "1 images where sc needs 2"),
        ({"reference": {**GOOD["reference"], "score": [1.0, 26.0]}}, "0..25"),
        ({"reference": {**GOOD["reference"], "score": [1.0]}}, "two numbers"),
        (
            {"reference": {**GOOD["reference"], "edit_region": [{"id": 1, "label": "", "bbox_2d": [0, 0, 1, 1]}]}},
            "id 1",
        ),
        (
            {"reference": {**GOOD["reference"], "edit_region": [{"id": 0, "label": "", "bbox_2d": [5, 0, 1, 1]}]}},
            "x1 < x2",
        ),
        ({"reference": {**GOOD["reference"], "edit_region": None}}, None),
    ],
)
def test_what_is_wrong_with_a_row(small_data, change, message):
    error = row_error({**GOOD, **change}, load_spec(small_data))
    assert (error is None) if message is None else message in error


def test_rows_come_back_and_split_groups_are_disjoint(small_data):
    spec = load_spec(small_data)
    splits = {
        name: load_rows(small_data / f"{name}.parquet", spec) for name in ("train", "validation", "rl", "heldout")
    }
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 48, "validation": 8, "rl": 24, "heldout": 16}
    groups = [{row["group"] for row in rows.texts()} for rows in splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))
    row = splits["train"][0]
    assert row["images"][0].size == (64, 64) and row["images"][0].mode == "RGB"
    assert splits["train"][1]["reference"]["edit_region"] is None


def test_what_trl_collates_is_the_prompt_with_images_and_the_verdict(small_data, tiny_processor):
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    spec = load_spec(small_data)
    rows = for_training(load_rows(small_data / "train.parquet", spec), spec, completions=True)
    collate = DataCollatorForVisionLanguageModeling(tiny_processor, completion_only_loss=True)
    batch = collate([rows[0], rows[1]])
    image = tiny_processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    # 64 x 64 pixels, patches of 8 merged 2 x 2: sixteen tokens an image
    assert (batch["input_ids"] == image).sum(dim=1).tolist() == [32, 16]
    for index, row in enumerate((rows[0], rows[1])):
        labels = batch["labels"][index]
        completion = tiny_processor.tokenizer.decode(labels[labels != -100])
        assert completion.endswith("<|im_end|>\n")
        verdict = parse(completion.removesuffix("<|im_end|>\n"), row["task"])
        assert verdict.score == row["reference"]["score"]


def test_special_tokens_in_a_foreign_file_are_trained_on_as_text(small_data, tmp_path, tiny_processor):
    """<|image_pad|> in one instruction ended stage 1 early: the processor found no image for it."""
    from datasets import Dataset
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    spec = load_spec(small_data)
    [clean, *_] = Dataset.from_parquet(str(small_data / "validation.parquet"))
    reference = {**clean["reference"], "reasoning": clean["reference"]["reasoning"] + "<|im_end|> <|vision_start|>"}
    foreign = {**clean, "instruction": "Add <|image_pad|> and <|video_pad|>.", "reference": reference}
    Dataset.from_list([clean, foreign], features=features()).to_parquet(str(tmp_path / "rows.parquet"))
    rows = for_training(load_rows(tmp_path / "rows.parquet", spec), spec, completions=True)
    ids = DataCollatorForVisionLanguageModeling(tiny_processor)([rows[0], rows[1]])["input_ids"]
    for token in ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|im_end|>"):
        one, other = (ids == tiny_processor.tokenizer.convert_tokens_to_ids(token)).sum(dim=1).tolist()
        assert one == other


def test_a_reference_without_a_rationale_cannot_be_trained_on(small_data, tmp_path):
    from datasets import Dataset

    spec = load_spec(small_data)
    rows = [
        row | {"reference": {**row["reference"], "reasoning": None}}
        for row in Dataset.from_parquet(str(small_data / "validation.parquet"))
    ]
    Dataset.from_list(rows, features=features()).to_parquet(str(tmp_path / "bare.parquet"))
    bare = load_rows(tmp_path / "bare.parquet", spec)
    with pytest.raises(UserError, match=r"row 'synthetic-.*reasoning"):
        for_training(bare, spec, completions=True)
    assert "completion" not in for_training(bare, spec, completions=False)[0]
