"""Held-out verdicts come in two rounds, so that a long one does not hold up a batch: they are what one round gives."""

from data.rows import load_rows
from evaluation.heldout import write_verdicts
from spatial_edit_reward import load_spec
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.files import read_lines
from spatial_edit_reward.inference.generation import generate
from spatial_edit_reward.inference.model import load_model, load_processor
from tests.conftest import BASE


def test_verdicts_cut_off_in_the_first_round_are_written_in_whole(small_data, tmp_path):
    spec = load_spec(small_data).model_copy(update={"max_new_tokens": 60})
    rows = load_rows(small_data / "heldout.parquet", spec)
    write_verdicts("base", str(BASE), None, rows, spec, 8, tmp_path / "base.jsonl")
    lines = {line["id"]: line for line in read_lines(tmp_path / "base.jsonl")}

    model, processor = load_model(str(BASE), None, None), load_processor(str(BASE), spec)
    for row in rows:
        asked = [prompt_messages(row["task"], row["instruction"], spec)]
        (said,) = generate(model, processor, asked, [row["images"]], spec.max_new_tokens)
        assert (lines[row["id"]]["completion"], lines[row["id"]]["truncated"]) == (said.text, said.truncated)

    asked_for = sorted(zip(rows["task"], rows["id"], strict=True), key=lambda pair: pair[0] == "pq")
    assert set(lines) == {identity for _, identity in asked_for}
    assert list(lines) != [identity for _, identity in asked_for]  # some were asked for a second time, after the others


def test_a_limit_of_one_token_is_kept(small_data, tmp_path):
    spec = load_spec(small_data).model_copy(update={"max_new_tokens": 1})
    rows = load_rows(small_data / "heldout.parquet", spec).select(range(3))
    write_verdicts("base", str(BASE), None, rows, spec, 2, tmp_path / "base.jsonl")
    assert [line["truncated"] for line in read_lines(tmp_path / "base.jsonl")] == [True] * 3
