"""The rewards on cases computed by hand, and their properties on any completion."""

import json
import math
import re
import sys
import types

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from rewards_fn import box_iou, format, load_rewards, score_agreement, weighted_mean
from rewards_fn.box_iou import matched_iou, pairwise_iou
from rewards_fn.format import COUNTED_AS, WEIGHTS
from spatial_edit_reward import parse, render
from spatial_edit_reward.checks import CHECKS, failed_checks
from tests.rewards_fn.mutations import check

REFERENCE = {
    "edit_region": [{"id": 0, "label": "cup", "bbox_2d": [0, 0, 100, 100]}],
    "score": [20.0, 10.0],
    "reasoning": "<|bbox_0|> the cup is red. <|global|> it was done well.",
}


def verdict_text(regions=None, reasoning=REFERENCE["reasoning"], score=(20, 10)):
    regions = REFERENCE["edit_region"] if regions is None else regions
    return json.dumps({"edit_region": regions, "reasoning": reasoning, "score": list(score)})


def region(*box, number=0):
    return {"id": number, "label": "x", "bbox_2d": list(box)}


def one(reward, completion, reference=REFERENCE, task="sc", **keywords):
    return reward(completions=[completion], reference=[reference], task=[task], prompts=["unused"], **keywords)[0]


def test_box_iou_by_hand():
    assert one(box_iou, verdict_text()) == 1.0
    # half the box found: 5,000 of 10,000
    assert one(box_iou, verdict_text([region(0, 0, 50, 100)])) == 0.5
    # a second box halves the credit, wherever it is
    assert one(box_iou, verdict_text([region(0, 0, 100, 100), region(500, 500, 600, 600, number=1)])) == 0.5
    assert one(box_iou, verdict_text([region(0, 0, 100, 100), region(9, 9, 5, 5, number=1)])) == 0.5
    assert one(box_iou, verdict_text([])) == 0.0
    assert one(box_iou, "no verdict") == 0.0
    empty = {**REFERENCE, "edit_region": []}
    assert one(box_iou, verdict_text([]), empty) == 1.0
    assert one(box_iou, verdict_text(), empty) == 0.0


def test_box_iou_does_not_apply_without_known_regions():
    assert one(box_iou, verdict_text(), {**REFERENCE, "edit_region": None}) is None
    assert one(box_iou, '{"reasoning": "x", "score": [1, 2]}', {**REFERENCE, "edit_region": None}, task="pq") is None


def test_score_agreement_by_hand():
    assert one(score_agreement, verdict_text()) == 1.0
    assert math.isclose(one(score_agreement, verdict_text(score=(15, 10))), 1 - 0.5 * 5 / 25)
    assert math.isclose(one(score_agreement, verdict_text(score=(15, 10)), weights=(1.0, 0.0)), 1 - 5 / 25)
    # relative weights, and a range that starts elsewhere
    assert math.isclose(one(score_agreement, verdict_text(score=(15, 10)), weights=(3, 1)), 1 - 0.75 * 5 / 25)
    assert math.isclose(one(score_agreement, verdict_text(score=(15, 10)), score_range=(10, 20)), 1 - 0.5 * 5 / 10)
    gaussian = one(score_agreement, verdict_text(score=(17, 10)), kernel="gaussian", sigma=3)
    assert math.isclose(gaussian, 0.5 * math.exp(-0.5) + 0.5)
    laplace = one(score_agreement, verdict_text(score=(17, 10)), kernel="laplace", sigma=3)
    assert math.isclose(laplace, 0.5 * math.exp(-1) + 0.5)
    for score in ([20], [20, 26], [20, -1], [20, "10"], [20, None], [True, 10], [20, 1e999], [20, 10, 5]):
        assert one(score_agreement, verdict_text(score=score)) == 0.0
    assert one(score_agreement, "no verdict") == 0.0


# completion -> the checks it fails, by name
FORMS = {
    verdict_text(): [],
    verdict_text([region(0, 0, 9, 9, number=1)]): ["ids_in_order"],
    verdict_text([region(0, 0, 9, 9, number=False)]): ["ids_in_order"],
    verdict_text([region(0, 0, 9, 9, number=0.0)]): ["ids_in_order"],
    verdict_text([region(0, 0, 9, 1001)]): ["boxes_well_formed"],
    verdict_text([region(9, 0, 9, 5)]): ["boxes_well_formed"],
    verdict_text([region(0, 0, 9, "9")]): ["boxes_well_formed"],
    verdict_text(["cup"]): ["ids_in_order", "labels_not_empty", "boxes_well_formed"],
    verdict_text([{"id": 0, "bbox_2d": [0, 0, 9, 9]}]): ["labels_not_empty"],
    verdict_text([{"id": 0, "label": " \n", "bbox_2d": [0, 0, 9, 9]}]): ["labels_not_empty"],
    verdict_text([{"id": 0, "label": 7, "bbox_2d": [0, 0, 9, 9]}]): ["labels_not_empty"],
    verdict_text(score=(20, 26)): ["two_scores_in_range"],
    verdict_text(score=(20, "5")): ["two_scores_in_range"],
    verdict_text(reasoning="<|global|> it was done well."): ["every_region_cited"],
    verdict_text([], "<|bbox_0|> the cup is red. <|global|> it was done."): ["no_cite_without_region"],
    verdict_text([], f"<|bbox_{'1' * 5000}|> the cup is red. <|global|> it was done."): ["no_cite_without_region"],
    verdict_text(reasoning="<|bbox_0|> the cup is red."): ["has_global_tag"],
    verdict_text(reasoning="<|bbox_0|> <|global|> it was done well."): ["tags_followed_by_words"],
    verdict_text(reasoning="<|bbox_0|> two words <|global|> it was done well."): ["tags_followed_by_words"],
    verdict_text(reasoning="<|bbox_0|> just three words <|global|> done well now"): [],
    verdict_text(reasoning="<|bbox_0|> the cup is red. <|global|>"): ["tags_followed_by_words"],
    verdict_text(reasoning="<|bbox_0|><|global|>"): ["tags_followed_by_words", "reasoning_not_empty"],
    verdict_text([], "<|global|>", (20, 10)): ["tags_followed_by_words", "reasoning_not_empty"],
    verdict_text(reasoning=""): ["every_region_cited", "has_global_tag", "reasoning_not_empty"],
}


@pytest.mark.parametrize("completion", FORMS)
def test_format_takes_off_the_weight_of_each_failed_check(completion):
    assert failed_checks(parse(completion, "sc")) == FORMS[completion]
    lost = {"boxes_well_formed" if name == "labels_not_empty" else name for name in FORMS[completion]}
    expected = 1 - sum(WEIGHTS["sc"][name] for name in lost)
    assert math.isclose(one(format, completion), expected)
    assert (one(format, completion) == 1.0) == (not FORMS[completion])


def test_a_failed_check_costs_what_the_recipe_was_tuned_with():
    """The shares of the reasoning were chosen with `python -m rewards_fn audit`; a change here changes stage 2."""
    costs = {
        name: round(1 - one(format, text), 9) for text, names in FORMS.items() if len(names) == 1 for name in names
    }
    assert costs == {
        "ids_in_order": 0.05,
        "labels_not_empty": 0.10,
        "boxes_well_formed": 0.10,
        "two_scores_in_range": 0.10,
        "every_region_cited": 0.10,
        "no_cite_without_region": 0.05,
        "has_global_tag": 0.10,
        "tags_followed_by_words": 0.30,
    }
    # an empty reasoning never fails alone: with the words after its tag, 0.5
    assert math.isclose(one(format, verdict_text([], "<|global|>")), 0.5)
    for text, reward in (("No artifacts", 0.6), ("", 0.6), ("<|global|> no visible artifacts", 0.7)):
        completion = json.dumps({"reasoning": text, "score": [25, 25]})
        assert math.isclose(one(format, completion, task="pq"), reward)
    assert math.isclose(one(format, '{"reasoning": "No visible artifacts.", "score": [26, 25]}', task="pq"), 0.7)


def test_format_of_pq_wants_no_tags():
    assert one(format, '{"reasoning": "clean all over", "score": [25, 25]}', task="pq") == 1.0
    assert one(format, '{"reasoning": "<|global|> clean all over", "score": [25, 25]}', task="pq") < 1.0


def test_weights_of_the_checks_are_shares_of_one():
    for task, weights in WEIGHTS.items():
        assert math.isclose(sum(weights.values()), 1.0)
        assert {COUNTED_AS.get(name, name) for name in CHECKS[task]} == set(weights)


def test_message_lists_and_strings_earn_the_same():
    for content in (verdict_text(), [{"type": "text", "text": verdict_text()}]):
        completion = [{"role": "assistant", "content": content}]
        assert [one(r, completion) for r in (box_iou, score_agreement, format)] == [1.0, 1.0, 1.0]


coordinate = st.integers(0, 1000)
boxes = st.tuples(coordinate, coordinate, coordinate, coordinate).map(
    lambda b: (float(min(b[0], b[2])), float(min(b[1], b[3])), max(b[0], b[2]) + 1.0, max(b[1], b[3]) + 1.0)
)


@given(boxes, boxes)
def test_iou_is_symmetric_and_bounded(a, b):
    matrix = pairwise_iou([a, b], [a, b])
    assert matrix[0, 1] == matrix[1, 0]
    assert matrix[0, 0] == matrix[1, 1] == 1.0
    assert 0.0 <= matrix[0, 1] <= 1.0


@given(boxes, boxes)
def test_iou_counts_what_the_pixels_say(a, b):
    # the definition on whole coordinates: cells in both over cells in either, along each axis
    across = len(set(range(int(a[0]), int(a[2]))) & set(range(int(b[0]), int(b[2]))))
    down = len(set(range(int(a[1]), int(a[3]))) & set(range(int(b[1]), int(b[3]))))
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)]
    assert math.isclose(pairwise_iou([a], [b])[0, 0], across * down / (sum(areas) - across * down), abs_tol=1e-12)


def towards(box, goal, share):
    """`box` moved by `share` of the way to `goal`, corner by corner."""
    return tuple(start + share * (end - start) for start, end in zip(box, goal, strict=True))


@given(st.lists(st.tuples(boxes, boxes), min_size=1, max_size=4), st.data(), st.sampled_from([{}, {"power": 0.5}]))
def test_a_better_match_never_pays_less(pairs, data, options):
    predicted, true = ([list(side)[i] for side in pairs] for i in (0, 1))
    rows, columns = linear_sum_assignment(pairwise_iou(predicted, true), maximize=True)
    match = data.draw(st.integers(0, len(rows) - 1))
    row, column = int(rows[match]), int(columns[match])
    moved = towards(predicted[row], true[column], data.draw(st.floats(0, 1)))
    better = predicted.copy()
    better[row] = moved
    assume(pairwise_iou([moved], true)[0, column] >= pairwise_iou([predicted[row]], true)[0, column])
    assert matched_iou(better, true, **options) >= matched_iou(predicted, true, **options) - 1e-12


@given(
    st.lists(boxes, max_size=4),
    st.lists(boxes, max_size=4),
    boxes,
    st.sampled_from([{}, {"power": 0.5}, {"thresholds": [0.5]}]),
)
def test_a_box_that_meets_no_true_one_never_pays(predicted, true, extra, options):
    assume(not true or pairwise_iou([extra], true).max() == 0)
    assert matched_iou([*predicted, extra], true, **options) <= matched_iou(predicted, true, **options)


def test_box_iou_options_by_hand():
    half = verdict_text([region(0, 0, 50, 100)])  # IoU 0.5
    assert math.isclose(one(box_iou, half, power=0.5), math.sqrt(0.5))
    assert one(box_iou, half, thresholds=[0.5]) == 1.0
    assert one(box_iou, half, thresholds=[0.25, 0.75]) == 0.5
    beside = verdict_text([region(100, 0, 200, 100)])  # a shared edge, no shared area
    assert one(box_iou, beside, power=0.1) == 0.0
    for options in ({"power": 0}, {"thresholds": []}, {"thresholds": [0]}, {"power": 0.5, "thresholds": [0.5]}):
        with pytest.raises(ValueError, match="box_iou"):
            one(box_iou, half, **options)


@given(st.lists(boxes, max_size=5), st.lists(boxes, max_size=5), st.randoms())
def test_matched_iou_does_not_depend_on_order(predicted, true, random):
    value = matched_iou(predicted, true)
    assert 0.0 <= value <= 1.0
    shuffled = predicted.copy()
    random.shuffle(shuffled)
    assert math.isclose(matched_iou(shuffled, true), value, abs_tol=1e-12)
    # a box that touches no true one never pays
    assert matched_iou([*predicted, (2000.0, 2000.0, 2001.0, 2001.0)], true) <= value
    assert matched_iou([*predicted, None], true) <= value


@given(st.permutations([region(0, 0, 10, 10), region(50, 50, 90, 90), region(5, 5, 30, 30)]))
def test_the_order_of_boxes_changes_nothing(regions):
    three = {**REFERENCE, "edit_region": [region(0, 0, 12, 10), region(50, 55, 90, 90), region(700, 0, 710, 10)]}
    assert math.isclose(one(box_iou, verdict_text(regions), three), one(box_iou, verdict_text(regions[::-1]), three))


references = st.builds(
    lambda boxes, scores: {
        "edit_region": [{"id": i, "label": "x", "bbox_2d": [v / 2 for v in box]} for i, box in enumerate(boxes)],
        "score": list(scores),
        "reasoning": " ".join(
            [*(f"<|bbox_{i}|> it was changed here." for i in range(len(boxes))), "<|global|> all went well."]
        ),
    },
    st.lists(boxes, max_size=5),
    st.tuples(st.floats(0, 25), st.floats(0, 25)),
)


@given(references)
def test_the_references_own_verdict_earns_everything(reference):
    for task in ("sc", "pq"):
        plain = {**reference, "reasoning": "all went well"} if task == "pq" else reference
        for reward in (box_iou, score_agreement, format):
            assert one(reward, render(task, plain), plain, task) in (1.0, None)


white = st.text(alphabet=" \t\n\r", max_size=4)


@given(references, st.data())
def test_white_space_between_tokens_changes_nothing(reference, data):
    text = render("sc", reference)
    spread = "".join(
        data.draw(white) + token + data.draw(white) for token in re.findall(r'"[^"]*"|[][{},:]|[^][{},:"\s]+', text)
    )
    assert json.loads(spread) == json.loads(text)
    for reward in (box_iou, score_agreement, format):
        assert one(reward, spread, reference) == one(reward, text, reference)


def test_mutated_completions_earn_a_finite_number():
    seen = check(seed=1, count=20_000, show_progress=False)
    assert min(seen["unparsed"], seen["between"], seen["valid"]) > 500


@pytest.mark.parametrize(
    "completion",
    [[], [None], [{}], [{"content": None}], [{"content": [3, {"text": 4}]}], ["text"], [{"content": {"a": 1}}]],
)
def test_message_lists_without_text_are_unparsed(completion):
    assert [one(reward, completion) for reward in (box_iou, score_agreement, format)] == [0.0, 0.0, 0.0]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
)


@given(json_values, st.text(max_size=60), json_values)
def test_rewards_are_total_and_bounded(regions, reasoning, score):
    completions = [
        json.dumps({"edit_region": regions, "reasoning": reasoning, "score": score}),
        json.dumps({"edit_region": [regions], "reasoning": reasoning, "score": [score, score]}),
        reasoning,
    ]
    columns = {"completions": completions, "reference": [REFERENCE] * 3, "task": ["sc"] * 3}
    for reward in (box_iou, score_agreement, format):
        for value in reward(**columns):
            assert isinstance(value, float) and 0.0 <= value <= 1.0


def test_load_rewards():
    loaded = load_rewards(
        ["box_iou", {"score_agreement": {"kernel": "gaussian", "sigma": 3}}, "rewards_fn.format:format"]
    )
    assert [reward.__name__ for reward in loaded] == ["box_iou", "score_agreement", "format"]
    assert one(loaded[1], verdict_text(score=(17, 10))) == one(
        score_agreement, verdict_text(score=(17, 10)), kernel="gaussian"
    )


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["boxiou"], r"known: box_iou, score_agreement, format.*, judge, trl:NAME"),
        ([], "at least one"),
        ([3], "neither a name"),
        ([{"a": {}, "b": {}}], "neither a name"),
        (["rewards_fn.format:nothing"], "cannot be loaded"),
        (["nowhere.at_all:x"], "cannot be loaded"),
        ([{"score_agreement": {"kernal": "l1"}}], "takes no kernal"),
        (["judge"], "needs model, base_url"),
        (["trl:get_soft_overlong_punishment"], "missing 2 required"),
    ],
)
def test_load_rewards_says_what_is_wrong(entries, message):
    with pytest.raises(ValueError, match=message):
        load_rewards(entries)


def named(name, monkeypatch):
    """The entry of a reward with that name in a module which is none of ours."""

    def own(completions, **kwargs):
        return [1.0] * len(completions)

    own.__name__ = name
    monkeypatch.setitem(sys.modules, "own_rewards", types.SimpleNamespace(own=own))
    return "own_rewards:own"


@pytest.mark.parametrize(
    "name", ["reward", "truncated", "scores", "tie_rate", "coverage", "unparsed_rate", "format", "box_iou"]
)
def test_a_reward_cannot_have_a_name_that_reports_use_for_something_else(name, monkeypatch):
    with pytest.raises(ValueError, match=f"^reward {name}: reports use this name for something else: rename"):
        load_rewards(["score_agreement", named(name, monkeypatch)])


def test_a_rule_by_its_path_and_twice_is_no_other_reward(monkeypatch):
    entries = ["box_iou", {"rewards_fn.box_iou:box_iou": {"power": 0.5}}, named("judge", monkeypatch)]
    assert [reward.__name__ for reward in load_rewards(entries)] == ["box_iou", "box_iou_2", "judge"]
    with pytest.raises(ValueError, match=r"^reward box_iou_2: another box_iou gets this name"):
        load_rewards([*entries[:2], named("box_iou_2", monkeypatch)])


def keyword_only(*, completions, reference, completion_ids, **kwargs):
    return [1.0] * len(completions)


def needs_limit(*, completions, limit, **kwargs):
    return [1.0] * len(completions)


def test_a_required_keyword_is_one_that_training_gives_or_the_entry():
    assert load_rewards([f"{__name__}:keyword_only"]) == [keyword_only]
    with pytest.raises(ValueError, match=r"it needs limit$"):
        load_rewards([f"{__name__}:needs_limit"])


def test_weighted_mean_is_over_what_applies():
    assert weighted_mean([None, 1.0, 0.5], [2, 1, 1]) == 0.75
    assert weighted_mean([None], [1]) is None
