"""Broken public rows made by hand, each with what must become of it: at least one for every kind of error.

A case is (what is wrong, the row as SpatialReward-Train has it or a raw line, the kinds that fix it or the one that drops it).
"""

import copy
import json
from typing import Any, NamedTuple

CITE = "<|bbox_0|> the cup is blue now."
OVERALL = "<|global|> the request was done well."
SC = {
    "edit_region": [{"id": 0, "label": "cup", "bbox_2d": [10, 20, 300, 400]}],
    "reasoning": f"{CITE} {OVERALL}",
    "score": [20, 15],
}
PQ = {"reasoning": "The picture looks clean and natural.", "score": [18, 22]}
TWO = {
    "edit_region": [
        {"id": 0, "label": "cup", "bbox_2d": [10, 20, 300, 400]},
        {"id": 1, "label": "lid", "bbox_2d": [500, 20, 600, 400]},
    ],
    "reasoning": f"{CITE} <|bbox_1|> the lid was taken off. {OVERALL}",
    "score": [20, 15],
}


class Case(NamedTuple):
    wrong: str
    row: Any
    fixed: tuple[str, ...] = ()
    dropped: str | None = None


def row(verdict: Any, images: Any = ("a.png", "b.png"), **changes: Any) -> dict[str, Any]:
    """A row with `verdict` (an object, or the text itself) as the answer; `...` for a change takes a key out."""
    text = verdict if isinstance(verdict, str) else json.dumps(verdict)
    made = {
        "images": list(images) if isinstance(images, tuple) else images,
        "instruction": "Make the cup blue.",
        "messages": [
            {"role": "user", "content": "<image><image>Judge this edit: Make the cup blue."},
            {"role": "assistant", "content": text},
        ],
        **changes,
    }
    return {key: value for key, value in made.items() if value is not ...}


def sc(**changes: Any) -> dict[str, Any]:
    """An `sc` row whose verdict is changed at top level; `...` takes a key out."""
    return row({key: value for key, value in {**SC, **changes}.items() if value is not ...})


def pq(**changes: Any) -> dict[str, Any]:
    return row({key: value for key, value in {**PQ, **changes}.items() if value is not ...}, images=("b.png",))


def region(**changes: Any) -> dict[str, Any]:
    """An `sc` row whose one region is changed."""
    changed = {key: value for key, value in {**SC["edit_region"][0], **changes}.items() if value is not ...}
    return sc(edit_region=[changed])


def second(**changes: Any) -> dict[str, Any]:
    """An `sc` row whose second region is changed."""
    verdict = copy.deepcopy(TWO)
    verdict["edit_region"][1].update(changes)
    return row(verdict)


def fix(wrong: str, made: Any, *kinds: str) -> Case:
    return Case(wrong, made, fixed=kinds)


def drop(wrong: str, made: Any, kind: str) -> Case:
    return Case(wrong, made, dropped=kind)


GOOD = json.dumps(SC)
DRAFT = json.dumps({"edit_region": [], "reasoning": "<|global|> nothing of it was done.", "score": [1, 1]})
CASES = [
    fix("nothing: an sc row", sc()),
    fix("nothing: a pq row", pq()),
    fix("nothing: two regions", row(TWO)),
    fix("nothing: a failed edit", sc(edit_region=[], reasoning="<|global|> nothing of it was done.")),
    fix("nothing: one image as a string", row(PQ, images="b.png")),
    fix("nothing: images as {path}", row(SC, images=({"path": "a.png"}, {"path": "b.png"}))),
    fix("nothing: `image` for `images`", row(SC, images=..., image=["a.png", "b.png"])),
    fix(
        "nothing: conversations and typed content",
        {
            "image": ["a.png", "b.png"],
            "conversations": [
                {
                    "from": "human",
                    "value": [{"type": "image"}, {"type": "text", "text": "Judge this edit: Add a cup."}],
                },
                {"from": "gpt", "value": [{"type": "text", "text": GOOD}]},
            ],
            "instruction": "Add a cup.",
        },
    ),
    fix("nothing: transparency", row(SC, images=("a.png", "clear.png"))),
    fix("nothing: CMYK", row(SC, images=("a.png", "cmyk.jpg"))),
    fix("nothing: 16 bits", row(SC, images=("a.png", "deep.png"))),
    fix("nothing: animated", row(SC, images=("a.png", "moving.gif"))),
    fix("nothing: turned by EXIF", row(SC, images=("a.png", "turned.jpg"))),
    # the row
    drop("a line cut off", '{"images": ["a.png"', "not_json"),
    drop("a line of prose", "see the other file", "not_json"),
    drop("a number for a row", "17", "not_a_row"),
    drop("messages as text", row(SC, messages="Judge this"), "not_a_row"),
    drop("a foreign role", row(SC, messages=[{"role": "tool", "content": "x"}]), "not_a_row"),
    drop("content as a number", row(SC, messages=[{"role": "user", "content": 3}]), "not_a_row"),
    drop("two answers", row(SC, messages=[{"role": "assistant", "content": GOOD}] * 2), "not_a_row"),
    drop("an image as a number", row(SC, images=("a.png", 7)), "not_a_row"),
    drop("a foreign solution", row(SC, solution="quality"), "not_a_row"),
    drop("an id as a list", row(SC, id=[1]), "not_a_row"),
    drop("half a character in the instruction", row(SC, instruction="Add \ud83d."), "not_a_row"),
    drop("half a character in the verdict", row(GOOD.replace("is blue", "is \\ud83d blue")), "not_a_row"),
    drop("an id given before", row(SC, id="0"), "repeated_id"),
    drop("no images", row(SC, images=()), "no_images"),
    drop("no images key", row(SC, images=...), "no_images"),
    drop("three images", row(SC, images=("a.png", "b.png", "a.png")), "image_count"),
    drop("two images and a pq verdict", row(PQ), "task_disagrees"),
    drop("one image and an sc verdict", row(SC, images=("b.png",)), "task_disagrees"),
    drop("two images and solution pq", row(SC, solution="pq"), "task_disagrees"),
    drop("no answer", row(SC, instruction="Another.", messages=[{"role": "user", "content": "Judge"}]), "no_verdict"),
    drop("an empty answer, and a row with its images that has one", row(""), "joined"),
    drop(
        "no instruction", row(SC, instruction=..., messages=[{"role": "assistant", "content": GOOD}]), "no_instruction"
    ),
    drop("a blank instruction", row(SC, instruction="  "), "no_instruction"),
    fix("nothing: a pq row without an instruction", row(PQ, images=("b.png",), instruction=...)),
    fix("an image token in the instruction", row(SC, instruction="Remove <|image_pad|> now."), "special_token"),
    fix("the end of a turn in the reasoning", pq(reasoning="It looks clean.<|im_end|> Or not."), "special_token"),
    fix("a video token in a label", region(label="a <|video_pad|> cup"), "special_token"),
    # the images
    drop("an image that is not there", row(SC, images=("a.png", "gone.png")), "image_missing"),
    drop("a folder for an image", row(SC, images=("a.png", "folder")), "image_missing"),
    drop("a path that climbs out", row(SC, images=("a.png", "../secret.png")), "image_outside"),
    drop("an absolute path elsewhere", row(SC, images=("a.png", "/etc/hosts")), "image_outside"),
    drop("too many pixels", row(SC, images=("a.png", "huge.png")), "image_too_large"),
    drop("too many bytes", row(SC, images=("a.png", "heavy.png")), "image_too_large"),
    drop("text for an image", row(SC, images=("a.png", "text.png")), "bad_image"),
    drop("a JPEG cut off", row(SC, images=("a.png", "cut.jpg")), "bad_image"),
    drop("a PNG cut off", row(SC, images=("a.png", "cut.png")), "bad_image"),
    drop("an empty file", row(SC, images=("a.png", "empty.png")), "bad_image"),
    # the verdict's text
    fix("thoughts first", row(f"<think>two {{cups}}</think>\n{GOOD}"), "think"),
    fix("thoughts whose start was cut off", row(f"so it is blue.</think>{GOOD}"), "think"),
    fix("a code fence", row(f"```json\n{GOOD}\n```"), "fence"),
    fix("thoughts and a fence", row(f"<think>hm</think>```\n{GOOD}\n```"), "think", "fence"),
    fix("words before", row(f"Here it is: {GOOD}"), "prose"),
    fix("words after", row(f"{GOOD} I hope this helps."), "prose"),
    fix("a draft and then the verdict", row(f"{DRAFT} No, look again: {GOOD}"), "prose"),
    fix("a draft in thoughts and then the verdict", row(f"{DRAFT} No, look again.</think>{GOOD}"), "think"),
    fix("a verdict and then one that is cut off", row(f"{GOOD}\n{DRAFT[:-20]}"), "prose"),
    drop("a draft and then a verdict with a trailing comma", row(f"{DRAFT}\n{GOOD[:-1]},}}"), "broken_json"),
    fix("the end of the turn after the verdict", row(f"{GOOD}<|im_end|>"), "prose"),
    fix("a line end in a string", row(GOOD.replace("now. ", "now.\n")), "line_end"),
    drop("a trailing comma", row(GOOD[:-1] + ",}"), "broken_json"),
    drop("single quotes", row(str(SC)), "broken_json"),
    drop("a verdict cut off", row(GOOD[:-9]), "broken_json"),
    drop("a refusal", row("I cannot judge this."), "unreadable_verdict"),
    drop("NaN for a score", row(GOOD.replace("[20, 15]", "[NaN, 15]")), "unreadable_verdict"),
    drop("a list for a verdict", row("[1, 2]"), "unreadable_verdict"),
    drop("a key twice", row(GOOD[:-1] + ', "score": [1, 1]}'), "repeated_key"),
    drop("a region's key twice", row(GOOD.replace('"id": 0', '"id": 0, "id": 0')), "repeated_key"),
    fix("scores for score", row(GOOD.replace('"score"', '"scores"')), "key_typo"),
    fix("edit_regions for edit_region", row(GOOD.replace("edit_region", "edit_regions")), "key_typo"),
    fix("lable for label", row(GOOD.replace('"label"', '"lable"')), "key_typo"),
    fix("bbox2d for bbox_2d", row(GOOD.replace("bbox_2d", "bbox2d")), "key_typo"),
    drop("no score", sc(score=...), "missing_key"),
    drop("no reasoning", pq(reasoning=...), "missing_key"),
    drop("a region without a box", region(bbox_2d=...), "missing_key"),
    fix("a key too many", sc(confidence=0.9), "extra_key"),
    fix("a region's key too many", region(color="blue"), "extra_key"),
    fix("score first", row({"score": SC["score"], **SC}), "key_order"),
    # regions
    drop("regions as an object", sc(edit_region={"id": 0}), "region_shape"),
    drop("a region as a list", sc(edit_region=[[1, 2, 3, 4]]), "region_shape"),
    drop("a region id as a word", region(id="cup"), "region_shape"),
    drop("regions null", sc(edit_region=None), "region_shape"),
    fix("ids from 1", row(json.dumps(SC).replace('"id": 0', '"id": 1').replace("bbox_0", "bbox_1")), "region_id"),
    fix("an id as text", region(id="0"), "region_id"),
    drop("an id twice", second(id=0), "repeated_region_id"),
    drop("an empty label", region(label=" "), "label"),
    drop("a label as a number", region(label=5), "label"),
    fix("spaces around a label", region(label=" blue  cup"), "label_space"),
    drop("Gemini's name for y first", region(bbox_2d=..., box_2d=[20, 10, 400, 300]), "box_key"),
    drop("COCO's name for x, y, width, height", region(bbox_2d=..., bbox=[10, 20, 290, 380]), "box_key"),
    drop("a box in space", region(bbox_2d=..., bbox_3d=[1, 2, 3, 4, 5, 6, 0, 0, 0]), "box_key"),
    drop("a point", region(bbox_2d=..., point_2d=[10, 20]), "missing_key"),
    drop("a box in a list", region(bbox_2d=[[10, 20, 300, 400]]), "box_shape"),
    drop("two corners in lists", region(bbox_2d=[[10, 20], [300, 400]]), "box_shape"),
    drop("four corners", region(bbox_2d=[[1, 1], [2, 1], [2, 2], [1, 2]]), "box_shape"),
    drop("three corners", region(bbox_2d=[1, 2, 3]), "box_shape"),
    drop("a box as text", region(bbox_2d="1,2,3,4"), "box_shape"),
    drop("a corner null", region(bbox_2d=[1, 2, 3, None]), "box_shape"),
    drop("a corner true", region(bbox_2d=[True, 2, 3, 4]), "box_shape"),
    fix("corners as text", region(bbox_2d=["10", "20", "300", "400"]), "box_string"),
    fix("a corner at 1003", region(bbox_2d=[10, 20, 1003, 400]), "box_edge"),
    fix("a corner at -2", region(bbox_2d=[-2, 20, 300, 400]), "box_edge"),
    drop("a corner at 1010", region(bbox_2d=[10, 20, 1010, 400]), "box_outside"),
    drop("pixels for thousandths", region(bbox_2d=[10, 20, 1920, 1080]), "box_outside"),
    drop("x2 before x1", region(bbox_2d=[300, 20, 10, 400]), "box_swapped"),
    drop("y2 above y1", region(bbox_2d=[10, 400, 300, 20]), "box_swapped"),
    drop("shares of the sides", region(bbox_2d=[0.19, 0.14, 0.46, 0.43]), "box_empty"),
    drop("no width", region(bbox_2d=[10, 20, 10, 400]), "box_empty"),
    drop("no height once clamped", region(bbox_2d=[10, 1000, 300, 1004]), "box_empty"),
    # scores
    fix("a score as text", sc(score=["20", 15]), "score_string"),
    fix("scores as 20/25", sc(score=["20/25", "15 / 25"]), "score_string"),
    drop("one score", sc(score=[20]), "score_shape"),
    drop("one number", sc(score=20), "score_shape"),
    drop("named scores", sc(score={"success": 20, "over": 15}), "score_shape"),
    drop("a score in words", pq(score=["high", 3]), "score_shape"),
    drop("a score null", pq(score=[None, 3]), "score_shape"),
    drop("a score over 25", sc(score=[26, 15]), "score_outside"),
    drop("a score below 0", pq(score=[-1, 15]), "score_outside"),
    # the reasoning
    drop("a cite of no region", sc(reasoning=f"{CITE} <|bbox_4|> and this too, look. {OVERALL}"), "cite_without_box"),
    drop("a cite of a huge region", sc(reasoning=f"{CITE} <|bbox_{'9' * 50}|> too. {OVERALL}"), "cite_without_box"),
    drop("cites without any box", sc(edit_region=[]), "cite_without_box"),
    drop("a region not cited", sc(reasoning=OVERALL), "reasoning_form"),
    drop("no overall assessment", sc(reasoning=CITE), "reasoning_form"),
    drop("tags in a pq reasoning", pq(reasoning="<|global|> it looks clean and natural."), "reasoning_form"),
    drop("reasoning as a list", pq(reasoning=["clean"]), "reasoning_form"),
    drop("an empty reasoning", pq(reasoning=""), "reasoning_form"),
    # the row among the others
    drop("a benchmark's image", row(SC, images=("a.png", "known.png")), "benchmark_overlap"),
    drop("a benchmark's image as JPEG", row(SC, images=("a.png", "known.jpg")), "benchmark_overlap"),
]
