"""A prompt's template comes back from prompts made of it, with its fields where they were."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.synthetic.generate import group_rows
from data.templates import PromptTemplate, recover
from spatial_edit_reward import Spec

SPEC = Spec(pixels={"min": 256, "max": 4096, "multiple": 16}, max_new_tokens=320)
INSTRUCTIONS = sorted({group_rows(0, number, 64)[0]["instruction"] for number in range(40)})


@pytest.mark.parametrize("task", ["sc", "pq"])
@pytest.mark.parametrize("given_share", [0, 1, 3])
def test_this_projects_own_prompts_come_back(task, given_share):
    prompts = [
        (SPEC.prompt(task, text), text if given_share and at % given_share == 0 else None)
        for at, text in enumerate(INSTRUCTIONS)
    ]
    template = recover(prompts)
    assert template.spec_prompt((0, 25)) == SPEC.prompts[task] and template.names_range((0, 25))
    assert [template.instruction(prompt) for prompt, _ in prompts] == INSTRUCTIONS


@settings(max_examples=60, deadline=None)
@given(
    st.text("abcxyz \n.:$", min_size=20, max_size=40),
    st.text("abcxyz \n.:$", min_size=1, max_size=30),
    st.sets(st.text("defg ", min_size=1, max_size=20).map(str.strip).filter(bool), min_size=2, max_size=20),
)
def test_what_is_recovered_explains_the_prompts_and_renders_them_again(before, after, instructions):
    prompts = [f"{before}{text}{after}" for text in sorted(instructions)]
    template = recover((prompt, None) for prompt in prompts)
    assert template is not None
    for prompt in prompts:
        instruction = template.instruction(prompt)
        assert instruction and instruction.join(template.pieces) == prompt
        spec = SPEC.model_copy(update={"prompts": {**SPEC.prompts, "pq": template.spec_prompt((0, 25))}})
        assert spec.prompt("pq", instruction) == prompt


FIXED = "Is the image natural? Answer as {json}, 0 to 25."


def test_a_prompt_without_an_instruction_explains_its_rows_where_that_may_be():
    for instructions in ([None] * 200, INSTRUCTIONS, ["natural", *INSTRUCTIONS]):
        prompts = [(FIXED, text) for text in instructions]
        template = recover(prompts, fixed=True)
        assert template.explains(FIXED) and template.instruction(FIXED) is None and not template.explains(FIXED + "!")
        assert template.spec_prompt((0, 25)) == "Is the image natural? Answer as {json}, $low to $high."
    assert recover([(FIXED, None)] * 200) is None
    assert recover([(FIXED, None)] * 98 + [("Another one.", None)] * 2, fixed=True) is None


def test_a_prompt_with_one_and_the_same_instruction_still_holds_it():
    """What the rows name as their instruction is one, where their prompts hold it."""
    template = recover([("Judge this: Add a cup.", "Add a cup.")] * 9, fixed=True)
    assert template.spec_prompt((0, 25)) == "Judge this: $instruction"


def test_special_tokens_of_an_exported_prompt_are_plain_text_in_the_spec():
    template = recover([(f"<|im_start|>user\nJudge: {text}", None) for text in INSTRUCTIONS])
    assert template.spec_prompt((0, 25)) == "<| im_start |>user\nJudge: $instruction"


def test_an_instruction_that_stands_twice():
    prompts = [(f"Judge: {text}\nWas this done: {text}\nSay 0-25.", None) for text in INSTRUCTIONS]
    template = recover(prompts)
    assert template.spec_prompt((0, 25)) == "Judge: $instruction\nWas this done: $instruction\nSay $low-$high."


@pytest.mark.parametrize(
    ("piece", "expected"),
    [
        (" from 0 to 25.", " from $low to $high."),
        (" (0-25)", " ($low-$high)"),
        (" [0, 25], 25 is best", " [$low, $high], $high is best"),
        (" 0 to 250, 1025, 2.5, 25.5", " 0 to 250, 1025, 2.5, 25.5"),
        (" ids from 0, boxes 0 to 1000", " ids from 0, boxes 0 to 1000"),
        (" costs $25", " costs $$25"),
        (" 0to25", " ${low}to$high"),
    ],
)
def test_the_score_range_is_located(piece, expected):
    assert PromptTemplate(("X: ", piece)).spec_prompt((0, 25)) == f"X: $instruction{expected}"


def test_a_few_foreign_prompts_do_not_matter_and_many_do():
    own = [(SPEC.prompt("sc", f"{text} Number {at}."), None) for at in range(10) for text in INSTRUCTIONS[:20]]
    foreign = [(f"{at} Something else altogether {at * 7}", None) for at in range(40)]
    assert recover([*own, *foreign[:2]]).spec_prompt((0, 25)) == SPEC.prompts["sc"]
    assert recover([*own, *foreign[:10]]) is None  # 95 of 100 are too few
    assert recover([*own, *foreign]) is None


def test_an_empty_instruction_is_none():
    template = PromptTemplate(("Judge this edit: ", ". Say 0-25."))
    assert template.instruction("Judge this edit: X. Say 0-25.") == "X"
    assert template.instruction("Judge this edit: . Say 0-25.") is None
    assert PromptTemplate(("Judge: ", ". Done: ", "?")).instruction("Judge: . Done: ?") is None


def test_one_prompt_alone_has_no_template():
    assert recover([("Judge this edit: Add a cup.", None)] * 5) is None
    assert recover([]) is None
