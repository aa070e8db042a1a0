"""What `parse` takes and refuses, and what `repair` repairs without making up a score."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatial_edit_reward import ParseFailure, parse, render, repair

SC = '{"edit_region": [{"id": 0, "label": "cup", "bbox_2d": [1, 2, 3, 4]}], "reasoning": "<|bbox_0|> x", "score": [20, 5]}'
PQ = '{"reasoning": "clean", "score": [25, 24.5]}'


def test_parse_keeps_everything_as_found():
    verdict = parse(f"\n {SC} \t", "sc")
    assert verdict.edit_region == [{"id": 0, "label": "cup", "bbox_2d": [1, 2, 3, 4]}]
    assert verdict.score == [20, 5]
    assert parse(PQ, "pq").edit_region is None


REFUSED = {
    "empty": ("", "pq"),
    "prose": ("The edit is good.", "sc"),
    "fence": (f"```json\n{PQ}\n```", "pq"),
    "text before": (f"Sure: {PQ}", "pq"),
    "text after": (f"{PQ} done", "pq"),
    "two objects": (PQ + PQ, "pq"),
    "list": (f"[{PQ}]", "pq"),
    "other task": (PQ, "sc"),
    "keys out of order": ('{"score": [1, 2], "reasoning": "x"}', "pq"),
    "extra key": ('{"reasoning": "x", "score": [1, 2], "note": 1}', "pq"),
    "key twice": ('{"reasoning": "x", "reasoning": "y", "score": [1, 2]}', "pq"),
    "key twice inside": (SC.replace('"id": 0,', '"id": 0, "id": 1,'), "sc"),
    "nan": ('{"reasoning": "x", "score": [NaN, 2]}', "pq"),
    "infinity": ('{"reasoning": "x", "score": [1, -Infinity]}', "pq"),
    "cut off": (SC[:-4], "sc"),
    "deep": ('{"reasoning": "x", "score": ' + "[" * 20_000 + "]" * 20_000 + "}", "pq"),
    "long integer": ('{"reasoning": "x", "score": [' + "9" * 5_000 + ", 2]}", "pq"),
    "region no list": (SC.replace('[{"id"', '{"a": [{"id"').replace("4]}]", "4]}]}"), "sc"),
    "reasoning no string": ('{"reasoning": 3, "score": [1, 2]}', "pq"),
    "score no list": ('{"reasoning": "x", "score": 12}', "pq"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_parse_refuses(name):
    with pytest.raises(ParseFailure):
        parse(*REFUSED[name])


@given(st.text(), st.sampled_from(["sc", "pq"]))
def test_parse_never_raises_anything_else(text, task):
    for candidate in (text, SC[: len(text) % len(SC)] + text):
        with contextlib.suppress(ParseFailure):
            parse(candidate, task)


@given(
    st.lists(st.tuples(st.text(max_size=9), st.lists(st.integers(0, 1000), min_size=4, max_size=4)), max_size=4),
    st.text(max_size=40),
    st.tuples(st.floats(0, 25), st.floats(0, 25)),
)
def test_what_render_writes_parse_reads(regions, reasoning, score):
    region = [{"id": i, "label": label, "bbox_2d": box} for i, (label, box) in enumerate(regions)]
    verdict = parse(render("sc", {"edit_region": region, "reasoning": reasoning, "score": list(score)}), "sc")
    assert (verdict.edit_region, verdict.reasoning, verdict.score) == (region, reasoning, list(score))


def test_render_needs_a_rationale():
    with pytest.raises(ValueError, match="reasoning"):
        render("pq", {"score": [1.0, 2.0], "reasoning": None})


def test_repair_says_whether_it_repaired():
    assert not repair(PQ, "pq").changed
    fenced = repair(f"Here:\n```json\n{PQ}\n```", "pq")
    assert fenced.changed and fenced.verdict.score == [25, 24.5]
    swapped = repair('{"score": [1, 2], "reasoning": "x"}', "pq")
    assert swapped.changed and swapped.verdict.score == [1, 2]
    beside_brackets = repair(f"The scores [1, 2] and [3]: {PQ}", "pq")
    assert beside_brackets.changed and beside_brackets.verdict.score == [25, 24.5]


DRAFT = '{"reasoning": "a draft", "score": [1, 1]}'
BROKEN = PQ[:-1] + ",}"
LAST = {
    "draft in thoughts that have no opening tag": f"A draft: {DRAFT} Hmm, no.</think>\n\n{PQ}",
    "draft in thoughts": f"<think>{DRAFT}</think>{PQ}",
    "thoughts after the verdict": f"{PQ}\n<think>Or {DRAFT}?",
    "draft that is broken, in thoughts": f"{DRAFT[:-1]},}} Hmm.</think>{PQ}",
    "two in a row": f"{DRAFT}\n{PQ}",
    "two in a row, the second broken": f"{DRAFT}\n{BROKEN}",
    "two in a row, the first broken": f"{DRAFT[:-1]},}}\n{PQ}",
    "two broken ones": f"{DRAFT[:-1]},}}\n{BROKEN}",
    "a list of two": f"[{DRAFT}, {PQ}]",
    "two fences": f"```json\n{DRAFT}\n```\nOn reflection:\n```json\n{PQ}\n```\nThat is all.",
    "braces after it": f"{PQ} {{so it is}}",
    "a second one that is cut off": f"{PQ}\n{DRAFT[:-9]}",
    "a second one that is cut off within a score": f"{PQ}\n{DRAFT[:-3]}",
    "a key more": PQ[:-1] + ', "confidence": 0.9}',
    "a key more, broken": PQ[:-1] + ', "confidence": 0.9,}',
    "keys in another case": PQ.replace("score", "Score"),
    "JSON in a JSON string": json.dumps(PQ),
}


@pytest.mark.parametrize("name", LAST)
def test_repair_takes_the_last_complete_verdict(name):
    repaired = repair(LAST[name], "pq")
    assert repaired.changed and (repaired.verdict.reasoning, repaired.verdict.score) == ("clean", [25, 24.5])


def test_repair_takes_the_last_of_different_shapes():
    """json_repair lets a later object of the same shape replace an earlier one, and no other."""
    draft = '{"edit_region": [], "reasoning": "<|global|> nothing", "score": [1, 1]}'
    assert repair(f"{draft} Hmm, no.</think>{SC}", "sc").verdict.score == [20, 5]
    assert repair(f"{draft}{SC}", "sc").verdict.score == [20, 5]


@pytest.mark.parametrize("text", [f"<think>{DRAFT}", f"{DRAFT}</think>", f"{DRAFT}</think>{PQ[:-9]}", SC])
def test_thoughts_and_verdicts_of_the_other_task_are_no_verdict(text):
    with pytest.raises(ParseFailure):
        repair(text, "pq")


@pytest.mark.parametrize("end", ["[20, 1", "[20, 15", "[20, 1.", "[20, -", "[20", "[20, 15e"])
def test_a_number_that_touches_the_end_is_no_score(end):
    """The 1 of "[20, 1" may be the beginning of 15."""
    with pytest.raises(ParseFailure):
        repair('{"reasoning": "clean", "score": ' + end, "pq")


def test_a_number_before_a_bracket_or_a_space_is_one():
    for end in ("[20, 15]", "[20, 15\n", "[20, 15}"):
        assert repair('{"reasoning": "clean", "score": ' + end, "pq").verdict.score == [20, 15]


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"a":' * 200_000, "{" * 5_000, '{"' * 2_000, '{"a": 1, "a": ' * 50_000, "x" * 10**7]
)
def test_repair_gives_up_on_hostile_texts_in_seconds(text):
    with pytest.raises(ParseFailure):
        repair(text, "pq")


@pytest.mark.parametrize("text", [SC[:60], '{"reasoning": "x"', '{"reasoning": "x", "score": [7', "", "12 and 13"])
def test_repair_invents_no_score(text):
    task = "sc" if text.startswith('{"edit') else "pq"
    with pytest.raises(ParseFailure):
        repair(text, task)


def test_render_writes_whole_numbers_without_a_fraction():
    assert json.loads(render("pq", {"score": [25.0, 12.5], "reasoning": "x"}))["score"] == [25, 12.5]
    assert "25.0" not in render("pq", {"score": [25.0, 12.5], "reasoning": "x"})
