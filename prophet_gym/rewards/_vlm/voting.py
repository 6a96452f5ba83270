"""Turn several answers to one question into one decision: pure functions, so that every rule can be checked by hand.

A decision needs a majority of *all* the samples that were wanted, not of those that could be read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from prophet_gym._checks import require_count

# Every repetition below is possessive or bounded, and no two of them can share a character: whatever an endpoint
# sends, reading it takes time in proportion to its length.
_MARKS = r"[\s*_`'\"$.!~\u3002\uff01]*+"
"""Markdown, quotes and formula marks around a word."""
_WORD = r"((?ai:success|failure))"  # in ASCII: other scripts have letters that count as the same, case aside
_FONT = rf"\\(?:text|math|bold|emph|mbox|underline)[a-z]{{0,9}}\s*+\{{{_MARKS}"
_ANSWERS = (
    rf"\\box(?:ed)?\s*+\{{{_MARKS}(?:{_FONT}){{0,3}}{_WORD}{_MARKS}(?:\}}{_MARKS}){{1,4}}",
    rf"<\|begin_of_box\|>{_MARKS}{_WORD}{_MARKS}<\|end_of_box\|>",
    rf"<answer>{_MARKS}{_WORD}{_MARKS}</answer>",
)
BOX = re.compile("|".join(_ANSWERS), re.IGNORECASE)
r"""`\box{Success}` or `\box{Failure}`, as models write it: `\boxed{\text{Success}}`, box tokens, answer tags."""
_TAG = r"</[\w-]{1,40}>|<[|\uff5c][^<>\n]{1,60}[|\uff5c]>|<(?:eos|pad|end_of_turn|end_of_utterance)>|\\{1,4}[\])]"
"""Closing tags, special tokens that were kept, the end of a formula."""
CLOSING = re.compile(rf"(?:[\s.*$`'\")\]}}!_~#\u3002\uff01]|{_TAG})*+", re.IGNORECASE)
"""What may follow the answer: the end of a formula, of a sentence, of bold print, of a tag."""
_BETWEEN = rf"(?:[\s.*$`'\")\](,;:/|}}_~]|{_TAG}|<answer>|\\{{1,4}}[\[(])*+"
BOTH = re.compile(rf"{_BETWEEN}(?:or|and|vs)?{_BETWEEN}", re.IGNORECASE)
"""What stands between both boxes where they are quoted, not chosen: `\\box{Success} or \\box{Failure}`."""


def parse_answer(text: str) -> bool | None:
    """Return whether an answer says success; None if it does not end in exactly one of the two words in its box.

    A box in a thought does not count, nor does an answer that was cut off after it. Both boxes side by side are a
    quotation of the question and chosen by nobody; different boxes otherwise, whatever stands between, are no answer.
    """
    answer = text.rpartition("</think>")[2]
    if "<think>" in answer:  # the thought has no end: what it says is not the answer yet
        return None
    boxes = list(BOX.finditer(answer))
    if not boxes or not CLOSING.fullmatch(answer, boxes[-1].end()):
        return None
    said = [next(word for word in box.groups() if word).lower() for box in boxes]
    quoted: set[int] = set()
    for place in range(1, len(boxes)):
        between = (boxes[place - 1].end(), boxes[place].start())
        if said[place - 1] != said[place] and BOTH.fullmatch(answer, *between):
            quoted |= {place - 1, place}
    if len(boxes) - 1 in quoted:
        return None
    chosen = {word for place, word in enumerate(said) if place not in quoted}
    return chosen == {"success"} if len(chosen) == 1 else None


@dataclass(frozen=True)
class Votes:
    """Count the answers to one question."""

    samples: int  # wanted; more than half of them decide
    retries: int = 0  # unreadable answers, at most, that are asked for again
    success: int = 0
    failure: int = 0
    unparsable: int = 0  # those that say neither, or never came

    def __post_init__(self) -> None:
        require_count("samples", self.samples)
        require_count("retries", self.retries, 0)

    def add(self, answers: Sequence[bool | None]) -> "Votes":
        """Return the votes with further answers counted."""
        return replace(
            self,
            success=self.success + sum(answer is True for answer in answers),
            failure=self.failure + sum(answer is False for answer in answers),
            unparsable=self.unparsable + sum(answer is None for answer in answers),
        )

    @property
    def decision(self) -> bool | None:
        """Return True or False once more than half of the samples say so, None as long as neither has them."""
        if 2 * self.success > self.samples:
            return True
        return False if 2 * self.failure > self.samples else None

    @property
    def to_ask(self) -> int:
        """Return the fewest further answers that could decide; 0 when they are decided, or can no longer be."""
        if self.decision is not None:
            return 0
        readable = self.success + self.failure
        left = min(self.samples - readable, self.samples + self.retries - readable - self.unparsable)
        missing = self.samples // 2 + 1 - max(self.success, self.failure)
        return missing if missing <= left else 0

    @property
    def success_rate(self) -> float | None:
        """Return the fraction of successes among the answers that could be read; None without any."""
        readable = self.success + self.failure
        return self.success / readable if readable else None
