"""How several answers to one question become one verdict: pure, so that every rule can be checked by hand.

The paper asks the same question five times and takes the majority. Here a verdict needs a majority of *all* the samples
that were wanted, not of those that could be read; what cannot reach it is no verdict, never a failure.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from prophet_gym.errors import require_count

BOX = re.compile(
    r"\\+box(?:ed)?\s*\{\s*(?:\\(?:text|math)(?:bf|rm)?\s*\{\s*)?(success|failure)\s*\}(?:\s*\})?", re.IGNORECASE
)
"""`\\box{Success}` or `\\box{Failure}`, also as language models like to write it: `\\boxed{\\text{Success}}`."""
CLOSING = re.compile(r"[\s.*$`'\")\]!]*")
"""What may follow the answer: the end of a formula, of a sentence, of bold print."""
BOTH = re.compile(r"[\s.*$`'\")\](,;:/|]*(?:or|and)?[\s.*$`'\")\](,;:/|]*", re.IGNORECASE)
"""What stands between both boxes where they are quoted, not chosen: `\\box{Success} or \\box{Failure}`."""


def parse_answer(text: str) -> bool | None:
    r"""Whether an answer says success; None if it does not end in exactly one of the two words in its box.

    A box earlier in the text does not count: a model that thinks aloud quotes its instructions, and an answer that was
    cut off in the middle of a thought is none. Nor does one that quotes both boxes at its end.

    Example:
        >>> parse_answer(r"The can lies in the basket. \box{Success}")
        True
        >>> parse_answer(r"I must say \box{Success} or \box{Failure}. The can") is None
        True
    """
    boxes = list(BOX.finditer(text))
    if not boxes or not CLOSING.fullmatch(text[boxes[-1].end() :]):
        return None
    said = [box[1].lower() for box in boxes]
    if said[-1] != said[-2:][0] and BOTH.fullmatch(text[boxes[-2].end() : boxes[-1].start()]):
        return None
    return said[-1] == "success"


@dataclass(frozen=True)
class Votes:
    """The answers to one question so far.

    Attributes:
        samples: Answers wanted; more than half of so many decide.
        retries: Answers that cannot be read are asked for again, at most so often in all.
        success: Answers that say success.
        failure: Answers that say failure.
        unparsable: Answers that say neither, or never came.

    Example:
        >>> votes = Votes(samples=5)
        >>> votes.to_ask
        3
        >>> votes = votes.add([True, True, False])
        >>> votes.verdict, votes.to_ask
        (None, 1)
        >>> votes.add([True]).verdict
        True
    """

    samples: int
    retries: int = 0
    success: int = 0
    failure: int = 0
    unparsable: int = 0

    def __post_init__(self) -> None:
        require_count("samples", self.samples)
        require_count("retries", self.retries, 0)

    def add(self, answers: Sequence[bool | None]) -> "Votes":
        """The votes with further answers."""
        return replace(
            self,
            success=self.success + sum(answer is True for answer in answers),
            failure=self.failure + sum(answer is False for answer in answers),
            unparsable=self.unparsable + sum(answer is None for answer in answers),
        )

    @property
    def majority(self) -> int:
        """Equal answers that decide."""
        return self.samples // 2 + 1

    @property
    def verdict(self) -> bool | None:
        """True or False once that has its majority, None where there is no verdict (yet)."""
        if self.success >= self.majority:
            return True
        return False if self.failure >= self.majority else None

    @property
    def to_ask(self) -> int:
        """The fewest further answers that could decide; 0 when it is decided, or can no longer be."""
        if self.verdict is not None:
            return 0
        readable = self.success + self.failure
        left = min(self.samples - readable, self.samples + self.retries - readable - self.unparsable)
        missing = self.majority - max(self.success, self.failure)
        return missing if missing <= left else 0

    @property
    def share(self) -> float | None:
        """Successes among the answers that could be read; None where there is none."""
        readable = self.success + self.failure
        return self.success / readable if readable else None
