"""The readers on the public schemas, with pictures: what is read, from which kind of copy, and what is said of a bad one."""

import io
import json

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from evaluation.benchmarks.plan import failures, names, plan_samples
from evaluation.benchmarks.read import BENCHES, read_samples
from evaluation.benchmarks.synthetic import SPEC, groups
from spatial_edit_reward.errors import UserError


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def test_merbench_is_stored_best_first(drawn):
    samples = read_samples("merbench", str(drawn / "merbench"))
    assert [len(sample.candidates) for sample in samples] == [2] * 5 + [3] * 5 + [4] * 5
    for sample in samples:
        assert [candidate.rank for candidate in sample.candidates] == list(range(len(sample.candidates)))
    by_number = dict(zip(range(50), groups(4711 + 2, 64), strict=False))
    for sample in samples[:5]:
        group = by_number[int(sample.id.split("-")[1])]
        assert (
            sample.instruction == group.instruction and (pixels(sample.sources()[0]) == np.asarray(group.source)).all()
        )
        shown = [pixels(candidate.picture()) for candidate in sample.candidates]
        overall = [next(e.overall for e in group.edits if (np.asarray(e.picture) == found).all()) for found in shown]
        assert overall == sorted(overall, reverse=True) and overall[0] - overall[1] >= 0.05


def test_editreward_bench_has_a_dimension_and_a_type_for_each_pair(drawn):
    samples = read_samples("editreward-bench", str(drawn / "editreward-bench"))
    assert {sample.dimension for sample in samples} == {"prompt_following", "consistency", "overall"}
    assert all([c.rank for c in sample.candidates] == [0, 1] for sample in samples)
    assert len({sample.id for sample in samples}) == len(samples) == 15


def test_tigers_pairs_are_put_together_to_samples(drawn):
    samples = read_samples("tiger-editreward-bench", str(drawn / "tiger-editreward-bench"))
    assert [len(sample.candidates) for sample in samples] == [2] * 5 + [3] * 5 + [4] * 5
    for sample in samples:
        assert sorted(c.rank for c in sample.candidates) == list(range(len(sample.candidates)))
        assert len(sample.extra.split(",")) == len(sample.candidates) * (len(sample.candidates) - 1) // 2
    assert len({tuple(c.rank for c in sample.candidates) for sample in samples[5:10]}) > 1  # letters tell no order


def test_mmrb2_has_one_or_more_sources_and_placeholders_go(drawn):
    samples = read_samples("mmrb2", str(drawn / "mmrb2"))
    assert {len(sample.sources()) for sample in samples} == {1, 2}
    assert all(len(sample.sources()) == sample.source_count for sample in samples)
    assert not any("<image" in sample.instruction or "image 1" in sample.instruction for sample in samples)
    assert {sample.extra for sample in samples} <= {"A", "B"}
    for sample in samples:
        assert sample.candidates["AB".index(sample.extra)].rank == 0


@pytest.mark.parametrize("bench", BENCHES)
def test_candidates_are_shuffled_by_seed_and_questions_named_once(drawn, bench):
    samples = read_samples(bench, str(drawn / bench))
    plan, again, other = (plan_samples(samples, SPEC, seed) for seed in (0, 0, 1))
    orders = [[[one["place"] for one in row["candidates"]] for row in found.rows] for found in (plan, again, other)]
    assert orders[0] == orders[1] != orders[2]
    assert any(order != sorted(order) for order in orders[0])
    assert not plan.faults and failures(plan, {}, 1)
    question = plan.question(names(plan, 1)[0])
    assert question.task == "sc" and len(question.images) == 1 + samples[0].source_count
    asked = sum(len(row["candidates"]) for row in plan.rows) * 2
    assert len(plan.asked) <= asked and (bench != "editreward-bench" or len(plan.asked) < asked)


def test_a_missing_column_is_named(drawn, tmp_path):
    rows = Dataset.from_parquet(str(drawn / "mmrb2" / "edit" / "test-00000-of-00001.parquet"))
    rows.remove_columns(["chosen"]).to_parquet(str(tmp_path / "edit.parquet"))
    with pytest.raises(UserError, match="no column 'chosen'"):
        read_samples("mmrb2", str(tmp_path))
    with pytest.raises(UserError, match="no such file or folder"):
        read_samples("mmrb2", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no Parquet"):
        (tmp_path / "empty").mkdir()
        read_samples("mmrb2", str(tmp_path / "empty"))


def test_a_copy_of_json_lines_with_missing_and_broken_pictures(tmp_path):
    picture = Image.effect_noise((64, 64), 50).convert("RGB")
    for name in ("source", "good", "better"):
        picture.save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    row = {"key": ["a", "b"], "instruction": "Add a cup.", "input_image": "source.png", "task_type": "add"}
    pairs = (["better.png", "good.png"], ["better.png", "gone.png"], ["broken.png", "good.png"])
    lines = [row | {"dimension": "overall", "output_images": pair} for pair in pairs]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plan = plan_samples(read_samples("editreward-bench", str(tmp_path)), SPEC, 0)
    asked = [name for name in names(plan, 1) if plan.question(name) is not None]
    assert len(plan.asked) == 4 and len(asked) == 2  # better and good have the same pixels: one `sc`, one `pq`
    failed = failures(plan, {name: {} for name in asked}, 1)
    assert (
        len(failed) == 2
        and "1:overall b" in failed[0]
        and "gone.png" in failed[0]
        and failed[1].startswith("2:overall a")
    )
    with pytest.raises(UserError, match="line 4: not JSON"):
        (tmp_path / "rows.jsonl").open("a").write("{")
        read_samples("editreward-bench", str(tmp_path))


def test_a_ranking_that_is_not_about_its_candidates_is_refused(drawn, tmp_path):
    rows = Dataset.from_parquet(str(drawn / "tiger-editreward-bench" / "2pair" / "train-00000-of-00001.parquet"))
    rows = rows.remove_columns("ranking").add_column("ranking", ["A>C"] * len(rows))
    rows.to_parquet(str(tmp_path / "2pair.parquet"))
    with pytest.raises(UserError, match="'A>C' is not about A and B"):
        read_samples("tiger-editreward-bench", str(tmp_path))
