"""Names are plain words: nouns for things, the field's terms, American spelling; and code is ASCII."""

import ast
import re
import tokenize

import pytest

from tests.conftest import ROOT

# A name that does not say what it holds -> what to use instead. Whole names only, in any case.
BANNED = {
    "ask": "request, generate or backend",
    "asked": "request(s) or prompts",
    "asker": "client or backend",
    "asking": "config",
    "answerer": "backend or policy",
    "fault": "error",
    "faults": "errors",
    "found": "the noun for the result: match, value, row, ...",
    "fresh": "overwrite",
    "honest": "strict, or noisy_oracle",
    "look": "attention_map",
    "looks": "attention_maps",
    "mend": "fix",
    "mended": "fixed",
    "mender": "fixer",
    "once": "deduplicated, or a verb",
    "place": "index, i, position or folder",
    "places": "indices, positions or folders",
    "said": "the noun: completion, message, value, ...",
    "spoil": "corrupt",
    "spoilt": "corrupted",
    "thing": "the noun: shape, object, item, ...",
    "things": "the noun: shapes, objects, items, ...",
    "told": "predicted, or the noun",
    "unasked": "the noun",
    "who": "owner, model or user",
    "whole": "complete, full, all, or the noun",
}
# Parts of a name (`read_picture`, `PICTURES`, `ReadPicture`) -> the one word for it.
BANNED_PARTS = {
    "picture": "image",
    "pictures": "images",
    "pictured": "with an image",
    "photograph": "background or photo",
    "photographs": "backgrounds or photos",
    "colour": "color",
    "colours": "colors",
    "grey": "gray",
    "centre": "center",
    "centres": "centers",
    "licence": "license",
    "licences": "licenses",
    "behaviour": "behavior",
    "neighbour": "neighbor",
    "neighbours": "neighbors",
    "learnt": "learned",
    "utilisation": "utilization",
    "analyse": "analyze",
    "labelled": "labeled",
    "judgement": "judgment",
}
BRITISH_STEMS = re.compile(
    r"(?:normal|quant|optim|initial|serial|synchron|token|random|minim|maxim|general|organ|recogn|summar|util|visual)"
    r"is(?:e|ed|er|ers|es|ing|ation|ations)$"
)
FILES = sorted(
    file
    for folder in (
        *("spatial_edit_reward", "rewards_fn", "pipeline", "data", "sft", "grpo", "export", "evaluation"),
        *("tools", "tests"),
    )
    for file in (ROOT / folder).rglob("*.py")
)
STRINGS = {getattr(tokenize, name) for name in ("STRING", "FSTRING_MIDDLE") if hasattr(tokenize, name)}


def names(tree: ast.AST):
    """(line, name) of every name that the code gives or uses, but for the attributes of others that it only calls."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Name):
            yield line, node.id
        elif isinstance(node, ast.arg | ast.keyword):
            yield line, node.arg or ""
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield line, node.name
        elif isinstance(node, ast.Attribute):
            yield line, node.attr
        elif isinstance(node, ast.alias):
            yield line, node.asname or node.name
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            yield line, node.name or ""


def better_word(name: str) -> str | None:
    """What to write for the name or the part of it that is banned; None for a good name."""
    if (bare := name.strip("_").lower()) in BANNED:
        return BANNED[bare]
    for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name):
        part = part.lower()
        if part in BANNED_PARTS:
            return f"{BANNED_PARTS[part]} (for {part!r})"
        if BRITISH_STEMS.match(part):
            return f"{part.replace('is', 'iz')} (for {part!r})"
    return None


def test_a_banned_name_is_seen_in_code_and_not_in_strings():
    code = "def f(found, *, READ_COLOUR=1):\n    x.said = f'{place}'\n    return 'told', quantised_model, base, ReadPicture"
    wrong = [name for _, name in sorted(set(names(ast.parse(code)))) if better_word(name)]
    assert sorted(wrong) == ["READ_COLOUR", "ReadPicture", "found", "place", "quantised_model", "said"]
    assert better_word("quantised_model") == "quantized (for 'quantised')"
    assert better_word("raised") is better_word("raise_error") is better_word("placed") is None


@pytest.mark.parametrize("folder", sorted({file.relative_to(ROOT).parts[0] for file in FILES}))
def test_names_are_plain_words(folder):
    wrong = []
    for file in FILES:
        if file.relative_to(ROOT).parts[0] != folder:
            continue
        for line, name in sorted(set(names(ast.parse(file.read_text())))):
            if word := better_word(name):
                wrong.append(f"{file.relative_to(ROOT)}:{line}: {name}: use {word}")
    assert not wrong, "\n" + "\n".join(wrong)


def test_code_is_ascii():
    """Comments and docstrings too; the data of tests may hold what users write."""
    wrong = []
    for file in FILES:
        if file.read_text().isascii():
            continue
        in_tests = file.is_relative_to(ROOT / "tests")
        with file.open("rb") as opened:
            for token in tokenize.tokenize(opened.readline):
                docstring = token.string.startswith('"""') and token.line.lstrip().startswith('"""')
                data = in_tests and token.type in STRINGS and not docstring
                if token.type != tokenize.ENCODING and not token.string.isascii() and not data:
                    wrong.append(f"{file.relative_to(ROOT)}:{token.start[0]}: {ascii(token.string)[:60]}")
    assert not wrong, "\n" + "\n".join(wrong)
