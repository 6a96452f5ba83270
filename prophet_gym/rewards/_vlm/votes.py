"""Reward videos by the votes of a vision-language model: frames and a question in, votes on its answers out."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor

from prophet_gym._checks import require_count, require_when
from prophet_gym.rewards._videos import require_frames, require_videos
from prophet_gym.rewards._vlm import warn
from prophet_gym.rewards._vlm.prompt import Prompt
from prophet_gym.world_model import RewardOutput

REQUESTED_FRAMES = 512
"""More than a dream of 2,500 steps has at stride 5, so that labels count from the start frame."""

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
"""Match what may follow the answer: the end of a formula, of a sentence, of bold print, of a tag."""
_BETWEEN = rf"(?:[\s.*$`'\")\](,;:/|}}_~]|{_TAG}|<answer>|\\{{1,4}}[\[(])*+"
BOTH = re.compile(rf"{_BETWEEN}(?:or|and|vs)?{_BETWEEN}", re.IGNORECASE)
"""Match what stands between both boxes where they are quoted, not chosen: `\\box{Success} or \\box{Failure}`."""


@dataclass(frozen=True, eq=False)
class Question:
    """Hold what a model is shown and asked, in reading order: texts and frames (uint8 `h w 3`)."""

    parts: tuple[str | Tensor, ...]
    seed: int = 0  # of the answer's sampling

    def __post_init__(self) -> None:
        for number, part in enumerate(self.parts):
            if not isinstance(part, str):
                require_frames(f"part {number} of a question, where it is no text,", part, "(height, width, 3)")


@dataclass(frozen=True)
class Reply:
    """Hold one answer, or the reason why it is missing."""

    text: str | None  # what the model wrote; None if no answer came
    problem: str = ""  # what went wrong, in a line
    finish: str = ""  # why the model stopped, where that is known: `stop`, or `length` if it was cut off


@runtime_checkable
class AnswerModel(Protocol):
    """Answer questions, under a name for logs."""

    name: str

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """Answer each question by itself: one reply per question, in order, whatever happens."""
        ...


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
    """Count the answers to one question; a majority of *all* samples decides, not of those that could be read."""

    samples: int  # wanted; more than half of them decide
    retries: int = 0  # unreadable answers, at most, that are asked for again
    answers: tuple[bool | None, ...] = ()  # None for those that say neither, or never came

    def __post_init__(self) -> None:
        require_count("samples", self.samples)
        require_count("retries", self.retries, 0)

    def add(self, *answers: bool | None) -> "Votes":
        """Return the votes with further answers counted."""
        return replace(self, answers=self.answers + answers)

    @property
    def counts(self) -> tuple[int, int]:
        """Return how many say success, and how many failure."""
        return self.answers.count(True), self.answers.count(False)

    @property
    def decision(self) -> bool | None:
        """Return True or False once more than half of the samples say so, None as long as neither has them."""
        if 2 * max(self.counts) <= self.samples:
            return None
        return self.counts[0] > self.counts[1]

    @property
    def to_ask(self) -> int:
        """Return the fewest further answers that could decide; 0 when they are decided, or can no longer be."""
        if self.decision is not None:
            return 0
        left = self.samples - sum(self.counts) + min(0, self.retries - self.answers.count(None))
        missing = self.samples // 2 + 1 - max(self.counts)
        return missing if missing <= left else 0

    @property
    def success_rate(self) -> float | None:
        """Return the fraction of successes among the answers that could be read; None without any."""
        success, failure = self.counts
        return success / (success + failure) if success + failure else None


class VlmReward:
    r"""Reward a video with 1.0 if most answers of a vision-language model say success.

    This is zero-shot, as the paper scores BRIDGE and its real robot: frames labelled with their step, a chain of
    thought, five samples and a majority vote. Unreadable answers, ties and unanswered questions leave the video
    unscored; the first time that no sample of a question can be read, a warning says so.

    Differences from the paper:
        * Sampling stops as soon as the majority is known.
        * At most `shown` frames are shown, evenly spread.
        * The prompt is our own.

    Attributes:
        counts: How many videos were `scored` or left `unscored`, how many answers were `unparsable` and how many
            questions `unanswered`, since the reward model was built.

    Example:
        >>> class Optimist:
        ...     name = "optimist"
        ...
        ...     def answer(self, questions):
        ...         return [Reply(r"It looks good. \box{Success}") for _ in questions]
        >>> votes = VlmReward(Optimist(), samples=3)
        >>> votes.score([torch.zeros(4, 8, 8, 3, dtype=torch.uint8)], ["open the drawer"]).reward.tolist()
        [1.0]
    """

    def __init__(
        self,
        model: AnswerModel,
        *,
        prompt: Prompt | None = None,
        samples: int = 5,
        retries: int = 2,
        when: Literal["chunk", "end"] = "end",
        stride: int = 5,
        shown: int = 32,
    ) -> None:
        r"""Keep the parts; nothing is asked yet. For `when` and `stride` see `RewardModel`.

        More than half of `samples` answers decide on a video; at most `retries` unreadable ones are asked for again.
        Answers to the prompt, by default the installed one named `success`, must end in `\box{Success}` or
        `\box{Failure}`.
        """
        self.model = model
        self.prompt = prompt or Prompt.read("success")
        self.ballot = Votes(samples, retries)
        self.when: Literal["chunk", "end"] = require_when(when)
        self.stride = require_count("stride", stride)
        self.shown = require_count("shown", shown)
        self.max_frames = max(self.shown, REQUESTED_FRAMES)
        self.counts: Counter[str] = Counter()
        self._warned = False

    def score(self, videos: Sequence[UInt8[Tensor, "_ h w 3"]], instructions: Sequence[str]) -> RewardOutput:
        """Ask about each video, uint8 `(frames, h, w, 3)`, until its votes are decided; skip one without frames."""
        require_videos(videos, instructions)
        cases = []
        for video, instruction in zip(videos, instructions, strict=True):
            frames = label_frames(video, self.stride, self.shown)
            cases.append(_Case(instruction, (*frames, self.prompt.fill(instruction)), self.ballot))
        while waiting := [case for case in cases if len(case.parts) > 1 and case.votes.to_ask]:
            asked = [(case, number) for case in waiting for number in range(case.votes.to_ask)]
            replies = self.model.answer([case.question(number) for case, number in asked])
            for (case, _), reply in zip(asked, replies, strict=True):
                case.take(reply)
        for case in cases:
            self.counts["unscored" if case.votes.decision is None else "scored"] += 1
            self.counts["unanswered"] += sum(reply.text is None for reply, _ in case.replies)
            self.counts["unparsable"] += len(case.unreadable)
        self._warn(cases)
        return RewardOutput(
            reward=torch.tensor([float(case.votes.decision is True) for case in cases], dtype=torch.float32),
            scored=torch.tensor([case.votes.decision is not None for case in cases], dtype=torch.bool),
            probability=torch.tensor([case.votes.success_rate or 0.0 for case in cases], dtype=torch.float32),
        )

    def _warn(self, cases: Sequence["_Case"]) -> None:
        unreadable = [case for case in cases if case.unreadable and not any(case.votes.counts)]
        if self._warned or not unreadable:
            return
        self._warned = True
        case, reply = unreadable[0], unreadable[0].unreadable[0]
        end = " ".join((reply.text or "")[-400:].split())[-120:]
        stopped = f" (finish_reason {reply.finish!r})" if reply.finish else ""
        warn(
            f"no answer of {self.model.name} about {case.instruction!r} can be read, of {len(case.replies)} samples; "
            f"one ends in {end!r}{stopped}. Such videos are not scored; from now on they are counted, not reported: "
            r"see `counts`. An answer must end in \box{Success} or \box{Failure}: ask for it in the prompt, and leave "
            "room for it (max_tokens, max_new_tokens)"
        )


@dataclass(eq=False)
class _Case:
    """Hold a video while it is asked about."""

    instruction: str
    parts: tuple[str | Tensor, ...]
    votes: Votes
    replies: list[tuple[Reply, bool | None]] = field(default_factory=list)  # and what each was read as

    @property
    def unreadable(self) -> list[Reply]:
        """Return the replies whose text says neither success nor failure."""
        return [reply for reply, answer in self.replies if reply.text is not None and answer is None]

    def question(self, number: int) -> Question:
        """Return a question whose seed depends on what is asked and how often it was asked, and on nothing else."""
        digest = hashlib.sha256(str(len(self.replies) + number).encode())
        for part in self.parts:
            digest.update(part.encode(errors="replace") if isinstance(part, str) else part.numpy().tobytes())
        return Question(self.parts, int.from_bytes(digest.digest()[:4], "big") >> 1)

    def take(self, reply: Reply) -> None:
        answer = None if reply.text is None else parse_answer(reply.text)
        self.replies.append((reply, answer))
        self.votes = self.votes.add(answer)


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` of `count` places, evenly spread, the first and the last among them (one: the last)."""
    if count <= most:
        return list(range(count))
    return [count - 1] if most == 1 else [round(i * (count - 1) / (most - 1)) for i in range(most)]


def label_frames(video: UInt8[Tensor, "_ h w 3"], stride: int, most: int) -> tuple[str | Tensor, ...]:
    """Return the frames that are shown, each after its label.

    The last one is labelled as such: the latest frame of an episode need not lie on the stride, so its step is unknown.
    """
    last = len(video) - 1
    pairs = [
        ("Last step:" if place == last else f"Step {stride * place}:", video[place].cpu())
        for place in spread(len(video), most)
    ]
    return tuple(chain.from_iterable(pairs))
