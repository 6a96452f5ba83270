"""Turn instructions into tokens with the prompts that published policies were trained with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from prophet_gym.errors import CheckpointError, MissingWeightsError

Tokenize = Callable[[Sequence[str]], Sequence[Sequence[int]]]
"""From texts to the ids of their tokens, special ones included."""
Prompt = Callable[[str, Float[Tensor, " s"] | None], str]
"""From an instruction, and the normalised state where there is one, to the text that the policy reads."""

PALIGEMMA = "google/paligemma-3b-pt-224"
"""The Hub repository with the tokenizer of pi0 and pi0.5."""
TOKENIZER = "tokenizer"
"""The folder of the tokenizer inside that of a saved policy."""
_BINS = 256


def line(instruction: str, state: Float[Tensor, " s"] | None = None) -> str:
    """Return the instruction and a new line: the prompt of pi0, SmolVLA, and pi0.5 without a discretised state."""
    del state
    return f"{_cleaned(instruction)}\n"


def task_and_state(instruction: str, state: Float[Tensor, " s"] | None = None) -> str:
    """Return pi0.5's prompt, in which every number of the state is one of 256 bins, or -1 below -1.

    This is `PaligemmaTokenizer.tokenize` of openpi (models/tokenizer.py).
    """
    if state is None:
        raise ValueError("this prompt names the robot's state, and none was given")
    edges = torch.linspace(-1, 1, _BINS + 1, dtype=torch.float64)[:-1]
    bins = torch.bucketize(state.double().contiguous(), edges, right=True) - 1
    return f"Task: {_cleaned(instruction)}, State: {' '.join(map(str, bins.tolist()))};\nAction: "


PROMPTS: Mapping[str, Prompt] = {"line": line, "task_and_state": task_and_state}
"""Prompts by the name that saved policies store."""


@dataclass(frozen=True)
class HuggingFaceTokens:
    """Tokenize texts with a Hugging Face tokenizer."""

    tokenizer: Any

    def __call__(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        return self.tokenizer(list(texts))["input_ids"]

    def save(self, folder: Path) -> None:
        """Write the tokenizer into the folder of a policy."""
        self.tokenizer.save_pretrained(folder / TOKENIZER)


@dataclass(frozen=True)
class CharTokenizer:
    """Tokenize texts as a 1 and their bytes, modulo a vocabulary: a stand-in for tests and tiny policies."""

    vocabulary: int

    def __call__(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        return [[1, *(byte % self.vocabulary for byte in text.encode())] for text in texts]


def pretrained_tokenizer(source: str | Path) -> Tokenize:
    """Return the Hugging Face tokenizer of a folder or a Hub repository; MissingWeightsError says what to do."""
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
    """Return the tokenizer that `LoadOptions.tokenizer` names, by default that of a folder or Hub name."""
    if given is None or isinstance(given, str | Path):
        return pretrained_tokenizer(default if given is None else given)
    return HuggingFaceTokens(given) if hasattr(given, "convert_tokens_to_ids") else given


def saved_tokenizer(folder: Path, said: Mapping[str, Any], given: Any) -> Tokenize:
    """Return the tokenizer that `LoadOptions.tokenizer` names, by default the one of a saved policy."""
    if given is not None:
        return tokenizer_of(given, folder)
    if isinstance(said.get("letters"), int) and said["letters"] > 0:
        return CharTokenizer(said["letters"])
    if (folder / TOKENIZER).is_dir():
        return pretrained_tokenizer(folder / TOKENIZER)
    raise CheckpointError(f"{folder} holds no {TOKENIZER}/: give the function again with LoadOptions(tokenizer=...)")


def padded_tokens(
    tokens: Sequence[Sequence[int]], length: int, texts: Sequence[str]
) -> tuple[Int64[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """Pad tokens on the right, and return them with a mask of the real ones; ValueError for too long a text."""
    ids = torch.zeros(len(tokens), length, dtype=torch.int64)
    real = torch.zeros_like(ids, dtype=torch.bool)
    for row, each in enumerate(tokens):
        if len(each) > length:
            raise ValueError(
                f"a prompt must have at most {length} tokens, got {len(each)}; shorten {texts[row][:60]!r}..."
            )
        ids[row, : len(each)] = torch.as_tensor(list(each), dtype=torch.int64)
        real[row, : len(each)] = True
    return ids, real


def _cleaned(instruction: str) -> str:
    return instruction.strip().replace("_", " ").replace("\n", " ")
