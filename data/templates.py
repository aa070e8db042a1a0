"""A dataset's own prompt, recovered from its rows: what is the same in all of them, with fields for instruction and range."""

from __future__ import annotations

import difflib
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from string import Template

from spatial_edit_reward.schema import plain_text

# A template must explain this share of a source's rows.
NEEDED = 0.99
SAMPLE = 2000
PAIRS = 60
# Fixed text of fewer characters is no template: an empty one would explain everything.
SHORTEST = 4
# An instruction that is repeated in a prompt is recovered only around a fixed text of this many characters.
SHORTEST_BETWEEN = 8


@dataclass(frozen=True)
class PromptTemplate:
    """The fixed texts of a prompt; the instruction stands between every two of them, and nowhere if there is one text."""

    pieces: tuple[str, ...]

    @property
    def length(self) -> int:
        """Characters of fixed text."""
        return sum(map(len, self.pieces))

    def instruction(self, prompt: str) -> str | None:
        """The instruction that makes this template `prompt`; None where none does, or where the template holds none."""
        gaps = len(self.pieces) - 1
        if gaps == 0:
            return None
        length, rest = divmod(len(prompt) - self.length, gaps)
        if length <= 0 or rest:
            return None
        start = len(self.pieces[0])
        instruction = prompt[start : start + length]
        return instruction if instruction.join(self.pieces) == prompt else None

    def explains(self, prompt: str) -> bool:
        """Whether this template makes `prompt`."""
        return (prompt,) == self.pieces or self.instruction(prompt) is not None

    def spec_prompt(self, score_range: tuple[float, float]) -> str:
        """As a prompt of the spec: `$instruction`, `$low` and `$high` for what changes, `$$` for a dollar sign."""
        low, high = (re.escape(f"{bound:g}") for bound in score_range)
        first, *others = (with_range(piece.replace("$", "$$"), low, high) for piece in self.pieces)
        return plain_text(first + "".join(field("instruction", piece) for piece in others))

    def names_range(self, score_range: tuple[float, float]) -> bool:
        """Whether the score range was located in the fixed texts."""
        return "low" in Template(self.spec_prompt(score_range)).get_identifiers()


def field(name: str, following: str) -> str:
    """A field of `string.Template` and the text after it, in braces where that would run into its name."""
    return f"${{{name}}}{following}" if re.match(r"[A-Za-z0-9_]", following) else f"${name}{following}"


def with_range(piece: str, low: str, high: str) -> str:
    """`piece` with "0 to 25" (also a dash, .., and, a comma) as `$low to $high`, and a lone 25 as `$high`."""
    between = r"(\s*(?:to|and|-|\u2013|\u2014|\.\.\.?|,|~)\s*)"
    full = rf"(?<![\w.$]){low}{between}{high}(?![\w]|\.\d)"
    ranged = re.sub(full, lambda match: f"{field('low', match.group(1))}$high", piece)
    return re.sub(rf"(?<![\w.$]){high}(?![\w]|\.\d)", "$high", ranged)


def explained(template: PromptTemplate, prompts: Sequence[str]) -> float:
    """The share of `prompts` that `template` makes, 0..1."""
    return sum(map(template.explains, prompts)) / len(prompts)


def around_words(before: str, after: str) -> tuple[str, str]:
    """The texts around an instruction, without what two instructions happened to share: whole words and a full stop."""
    return re.sub(r"[^\W_]*\Z", "", before), re.sub(r"\A[^\W_]*[.!?]*", "", after)


def common_start(texts: Sequence[str]) -> str:
    """The characters that all of `texts` begin with."""
    return os.path.commonprefix(texts)  # noqa: RUF071 - characters are meant


def candidates(one: str, other: str) -> list[PromptTemplate]:
    """The templates that two prompts of different instructions may come from, with one or two fields for it."""
    before = common_start([one, other])
    after = common_start([prompt[len(before) :][::-1] for prompt in (one, other)])[::-1]
    before, after = around_words(before, after)
    first, second = (prompt[len(before) : len(prompt) - len(after)] for prompt in (one, other))
    templates = [PromptTemplate((before, after))]
    same = difflib.SequenceMatcher(None, first, second, autojunk=False).find_longest_match()
    if same.size >= SHORTEST_BETWEEN:
        # "Instruction: X. ... Remember: X." has X twice, so the text between is in the middle of both.
        between, _ = around_words(first[same.a : same.a + same.size], "")
        _, between = around_words("", between)
        templates.append(PromptTemplate((before, between, after)))
    return templates


def recover(prompts: Iterable[tuple[str, str | None]], fixed: bool = False) -> PromptTemplate | None:
    """The template of `prompts`, pairs of a prompt and its instruction where the row gives it; None where there is none.

    Of what explains at least NEEDED of a sample, the one with the most fixed text. `fixed`: it may hold no instruction, unless
    most of the prompts hold their row's.
    """
    sample = list(islice(prompts, SAMPLE))
    all_prompts = [prompt for prompt, _ in sample]
    counts = Counter(
        PromptTemplate(tuple(prompt.split(instruction)))
        for prompt, instruction in sample
        if instruction and instruction in prompt
    )
    templates = [template for template, _ in counts.most_common(5)]
    if fixed and 2 * counts.total() <= sum(bool(instruction) for _, instruction in sample):
        templates = [PromptTemplate((prompt,)) for prompt, _ in Counter(all_prompts).most_common(1)]
    different = sorted(set(all_prompts))
    if not counts and len(different) > 1:
        rng = random.Random(0)
        pairs = (rng.sample(different, 2) for _ in range(PAIRS))
        templates += dict.fromkeys(template for pair in pairs for template in candidates(*pair))
    long = [template for template in templates if template.length >= SHORTEST]
    good = [template for template in long if explained(template, all_prompts) >= NEEDED]
    return max(good, key=lambda template: template.length, default=None)
