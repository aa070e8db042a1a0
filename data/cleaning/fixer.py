"""Every way in which a public row can be wrong, and what is done about each: fix the row, drop it, or fail the stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from data.cleaning.box_format import BoxFormat, Size

Policy = Literal["fix", "drop", "fail"]
MAX_DETAIL = 200  # characters: a row may hold a whole image as text where its path is expected


class Kind(NamedTuple):
    """A kind of error: what is done by default, what is wrong, and what a fix does to it, if there is one."""

    default: Policy
    meaning: str
    fix: str | None = None


KINDS: dict[str, Kind] = {
    # the row
    "not_json": Kind("drop", "the line is no JSON"),
    "not_a_row": Kind("drop", "a key that the layout needs is missing or of another shape"),
    "repeated_id": Kind("drop", "an earlier row has its id"),
    "no_images": Kind("drop", "it names no image"),
    "image_count": Kind("drop", "it has neither one image (pq) nor two (sc)"),
    "task_disagrees": Kind("drop", "its number of images, its verdict's keys and its `solution` disagree"),
    "no_verdict": Kind("drop", "it has no answer to learn from or to compare with"),
    "no_instruction": Kind("drop", "an sc row has no instruction, and the prompt template does not explain its prompt"),
    "special_token": Kind(
        "fix",
        "a special token of the tokenizer, such as <|image_pad|>, in a text",
        "written with spaces, as plain text",
    ),
    # the images
    "image_missing": Kind("drop", "an image is not there"),
    "image_outside": Kind("drop", "an image's path leaves the source's image folder"),
    "image_too_large": Kind("drop", "an image has more bytes or pixels than are opened"),
    "bad_image": Kind("drop", "a file is no image that can be used: damaged, of another format, or far too thin"),
    # the verdict's text
    "think": Kind("fix", "a <think> part before the verdict", "removed"),
    "fence": Kind("fix", "a code fence around the verdict", "removed"),
    "prose": Kind("fix", "text around the JSON object", "removed"),
    "line_end": Kind("fix", "a line end or tab as it is within a JSON string", "kept"),
    "broken_json": Kind("drop", "JSON with a slip such as a trailing comma", "repaired by json_repair"),
    "unreadable_verdict": Kind("drop", "no JSON object in the answer"),
    "repeated_key": Kind("drop", "a key is given twice"),
    "key_typo": Kind("fix", "a misspelt key, such as `lable`", "read as the nearest missing key"),
    "missing_key": Kind("drop", "a key of the verdict or of a region is missing"),
    "extra_key": Kind("fix", "a key that a verdict or a region does not have", "left out"),
    "key_order": Kind("fix", "the verdict's keys are not in the task's order", "put in order"),
    "region_shape": Kind("drop", "`edit_region` is no list of objects"),
    "region_id": Kind("fix", "region ids are not 0, 1, 2, ...", "numbered anew, cites with them"),
    "repeated_region_id": Kind("drop", "two regions have one id"),
    "label": Kind("drop", "a region's label is no text"),
    "label_space": Kind("fix", "white space around or doubled in a label", "removed"),
    "box_key": Kind("drop", "a box has the name of another convention than the source's `box_format`"),
    "box_shape": Kind("drop", "a box is not four numbers"),
    "box_string": Kind("fix", "a box's number is written as text", "read"),
    "box_edge": Kind("fix", "a box is out of 0..1000 by no more than `box_tolerance`", "clamped"),
    "box_outside": Kind("drop", "a box is out of 0..1000 by more"),
    "box_swapped": Kind("drop", "x2 < x1 or y2 < y1", "exchanged where it cannot be a width or a height"),
    "box_empty": Kind("drop", "a box is less than a thousandth of the image wide or high"),
    "score_string": Kind("fix", "a score is written as text, as in 20 or 20/25", "read"),
    "score_shape": Kind("drop", "`score` is not two numbers"),
    "score_outside": Kind("drop", "a score is out of the source's range"),
    "cite_without_box": Kind("drop", "the reasoning cites a region that is not there", "read without the tag"),
    "reasoning_form": Kind("drop", "the reasoning fails a check of valid verdicts"),
    # the row among the others
    "joined": Kind(
        "drop", "it has no answer, and the row that has its images, its instruction and an answer stands for it"
    ),
    "benchmark_overlap": Kind("drop", "an image is one of a benchmark's, exactly or to the eye"),
    "other_split": Kind(
        "drop", "it shares an image or a group with a row of a split that its own source does not name"
    ),
    "not_for_sft": Kind("drop", "it fell to train or validation, and has no complete verdict to imitate"),
    "subsampled": Kind("drop", "the recipe keeps only a share of its split's rows of its kind"),
}


class RowError(Exception):
    """A row that cannot be used as it is: `kind` is a key of KINDS, `detail` says what is wrong with this row."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        detail = detail.encode(errors="replace").decode()  # half a character could not be written into the report
        self.kind, self.detail = kind, detail if len(detail) <= MAX_DETAIL else f"{detail[:MAX_DETAIL]}..."


class RowFixer:
    """What may be fixed in one row, and what was.

    `fixed`: kind -> detail of the first such fix, in the order in which they were met. `box_tolerance`: how far out of
    0..1000 a corner may be to be clamped. `declared_format`: of its source's boxes; None is xyxy_1000, undeclared.
    `image_size`: gives (width, height) in pixels of the edited image's file. `raw_boxes`: what was read, unjudged.
    """

    def __init__(
        self,
        policy: Mapping[str, Policy],
        box_tolerance: float,
        declared_format: BoxFormat | None = None,
        image_size: Callable[[], Size] = lambda: (1, 1),
    ) -> None:
        self.policy, self.box_tolerance = policy, box_tolerance
        self.declared_format, self.image_size = declared_format, image_size
        self.fixed: dict[str, str] = {}
        self.raw_boxes: list[tuple[list[float], Size]] = []

    def fix(self, kind: str, detail: str) -> None:
        """Notes that `kind` is being fixed. Raises RowError where the policy does not fix it."""
        if self.policy[kind] != "fix":
            raise RowError(kind, detail)
        self.fixed.setdefault(kind, detail)


def policies(changes: Mapping[str, Policy]) -> dict[str, Policy]:
    """The policy of every kind, `changes` over the defaults. Raises ValueError for an unknown kind, or a fix there is not."""
    for kind, policy in changes.items():
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is no kind of error in a row; known: {', '.join(KINDS)}")
        if policy == "fix" and KINDS[kind].fix is None:
            raise ValueError(f"{kind!r} cannot be fixed: drop or fail")
    return {kind: changes.get(kind, known.default) for kind, known in KINDS.items()}
