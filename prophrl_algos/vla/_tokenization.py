"""Instructions to tokens: the prompts that published policies were trained with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from prophet_gym.errors import MissingWeightsError

Tokenize = Callable[[Sequence[str]], Sequence[Sequence[int]]]
"""Texts to the numbers of their tokens, special ones included."""
Prompt = Callable[[str, Float[Tensor, " s"] | None], str]
"""An instruction, and the normalised state where there is one, to what the policy reads."""

PALIGEMMA = "google/paligemma-3b-pt-224"
BINS = 256


def line(instruction: str, state: Float[Tensor, " s"] | None = None) -> str:
    r"""The instruction and a new line: pi0, SmolVLA, and pi0.5 where the state is not discretised.

    Example:
        >>> line("pick_up the milk ")
        'pick up the milk\n'
    """
    del state
    return f"{_cleaned(instruction)}\n"


def task_and_state(instruction: str, state: Float[Tensor, " s"] | None = None) -> str:
    r"""Pi0.5's prompt: every number of the state, normalised to -1..1, is one of 256 bins.

    openpi models/tokenizer.py, PaligemmaTokenizer.tokenize; a number below -1 is bin -1, as there.

    Example:
        >>> task_and_state("stop", torch.tensor([-1.0, 0.0, 1.0, -1.5]))
        'Task: stop, State: 0 128 255 -1;\nAction: '
    """
    if state is None:
        raise ValueError("this prompt names the robot's state, and there is none")
    edges = torch.linspace(-1, 1, BINS + 1, dtype=torch.float64)[:-1]
    bins = torch.bucketize(state.double().contiguous(), edges, right=True) - 1
    return f"Task: {_cleaned(instruction)}, State: {' '.join(map(str, bins.tolist()))};\nAction: "


PROMPTS: Mapping[str, Prompt] = {"line": line, "task_and_state": task_and_state}
"""Prompts by the name that a saved policy has them by."""


@dataclass(frozen=True)
class HuggingFaceTokens:
    """Texts to tokens by a Hugging Face tokenizer.

    Attributes:
        tokenizer: takes lists of texts.
    """

    tokenizer: Any

    def __call__(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        """Return the numbers of the tokens of each text."""
        return self.tokenizer(list(texts))["input_ids"]


@dataclass(frozen=True)
class CharTokenizer:
    """The bytes of a text, after a 1, modulo a vocabulary.

    Attributes:
        vocabulary: how many tokens there are.
    """

    vocabulary: int

    def __call__(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        """Return the numbers of the tokens of each text."""
        return [[1, *(byte % self.vocabulary for byte in text.encode())] for text in texts]


def pretrained_tokenizer(source: str | Path) -> Tokenize:
    """A Hugging Face tokenizer of a folder or a Hub repository.

    Raises:
        MissingWeightsError: it cannot be had; says what to do.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MissingWeightsError(
            f"could not get the tokenizer {source}: {reason} Give LoadOptions(tokenizer=...) a "
            "folder that holds it, or accept its licence on the Hub and log in (hf auth login)"
        ) from error
    return tokenizer_of(tokenizer, source)


def tokenizer_of(given: Any, default: str | Path) -> Tokenize:
    """What `LoadOptions.tokenizer` says: a Hugging Face tokenizer, a function of texts, or where to get one.

    Args:
        given: a tokenizer, a `Tokenize`, a folder or Hub name, or None.
        default: a folder or Hub name for None.
    """
    if given is None or isinstance(given, str | Path):
        return pretrained_tokenizer(default if given is None else given)
    if hasattr(given, "convert_tokens_to_ids"):
        return HuggingFaceTokens(given)
    return given


def char_tokenizer(vocabulary: int) -> Tokenize:
    """A stand-in for tests and tiny policies: the bytes of a text, after a 1, modulo the vocabulary.

    Example:
        >>> char_tokenizer(100)(["ab"])
        [[1, 97, 98]]
    """
    return CharTokenizer(vocabulary)


def padded(
    tokens: Sequence[Sequence[int]], length: int, texts: Sequence[str]
) -> tuple[Int64[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """Tokens padded on the right, and which are real.

    Raises:
        ValueError: a text has more than `length` tokens.
    """
    numbers = torch.zeros(len(tokens), length, dtype=torch.int64)
    real = torch.zeros(len(tokens), length, dtype=torch.bool)
    for row, each in enumerate(tokens):
        if len(each) > length:
            raise ValueError(
                f"an instruction must have at most {length} tokens with its prompt, got {len(each)}: "
                f"{texts[row][:60]!r}...; shorten it"
            )
        numbers[row, : len(each)] = torch.as_tensor(list(each), dtype=torch.int64)
        real[row, : len(each)] = True
    return numbers, real


def trimmed(obs: Mapping[str, Tensor]) -> tuple[Int64[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """Tokens and mask of an observation without the columns that no row needs."""
    length = max(int(obs["token_mask"].sum(1).max()), 1)
    return obs["tokens"][:, :length], obs["token_mask"][:, :length]


def _cleaned(instruction: str) -> str:
    return instruction.strip().replace("_", " ").replace("\n", " ")
