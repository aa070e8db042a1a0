"""The sentences of a synthetic row: its instruction and the rationale that cites every region."""

from __future__ import annotations

from data.synthetic.degrade import LEVEL_WORDS
from data.synthetic.edits import Candidate, Change
from spatial_edit_reward.schema import GLOBAL_TAG


def with_article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def direction(change: Change) -> str:
    """Where a moved item went, by the longer axis of the way."""
    assert change.before is not None and change.after is not None
    right = change.after.box[0] - change.before.box[0]
    down = change.after.box[1] - change.before.box[1]
    if abs(right) >= abs(down):
        return "to the right" if right > 0 else "to the left"
    return "down" if down > 0 else "up"


def size_word(change: Change) -> str:
    assert change.before is not None and change.after is not None
    before, after = (item.box[2] - item.box[0] for item in (change.before, change.after))
    return "larger" if after > before else "smaller"


def request_words(change: Change) -> str:
    """The imperative clause that asks for `change`, lower case, without a full stop."""
    before = change.before.name if change.before else ""
    after = change.after.name if change.after else ""
    return {
        "add": lambda: f"add {with_article(after)}",
        "remove": lambda: f"remove the {before}",
        "recolor": lambda: f"recolour the {before} {after.split()[0]}",
        "move": lambda: f"move the {before} {direction(change)}",
        "resize": lambda: f"make the {before} {size_word(change)}",
        "replace": lambda: f"replace the {before} with {with_article(after)}",
    }[change.kind]()


def instruction(request: tuple[Change, ...]) -> str:
    """The editing instruction, one sentence."""
    text = " and ".join(request_words(change) for change in request)
    return text[0].upper() + text[1:] + "."


def region_words(change: Change) -> list[str]:
    """What to say at each region of `change`, in the order of `edits.regions`; at least three words each."""
    before = change.before.name if change.before else ""
    after = change.after.name if change.after else ""
    why = "as asked" if change.requested else "although nobody asked"
    if change.kind == "move":
        return [f"the {before} left this place {why}.", f"the {before} is here now {why}."]
    return [
        {
            "add": lambda: f"{with_article(after)} was added {why}.",
            "remove": lambda: f"the {before} was removed {why}.",
            "recolor": lambda: f"the {before} became {after.split()[0]} {why}.",
            "resize": lambda: f"the {before} became {size_word(change)} {why}.",
            "replace": lambda: f"the {before} became {with_article(after)} {why}.",
        }[change.kind]()
    ]


def semantic_rationale(candidate: Candidate) -> str:
    """The `sc` rationale: every region cited in order, then `<|global|>` with the counts that the scores follow from."""
    phrases = [words for change in candidate.changes for words in region_words(change)]
    if candidate.background_changed:
        phrases.append("the background changed although nobody asked.")
    if not phrases:
        return f"{GLOBAL_TAG} nothing of the request can be seen, so the edit failed."
    extra = candidate.num_unrequested + candidate.background_changed
    total = f"{candidate.num_done} of {candidate.num_requested} requested edits done, {extra} unrequested."
    return " ".join([*(f"<|bbox_{index}|> {words}" for index, words in enumerate(phrases)), f"{GLOBAL_TAG} {total}"])


def perceptual_rationale(kind: str, level: int) -> str:
    """The `pq` rationale for damage of `kind` at `level` 0..4."""
    if level == 0:
        return "The picture looks clean and natural throughout."
    return f"The picture shows {LEVEL_WORDS[level]} {kind}, which makes it look less natural."
