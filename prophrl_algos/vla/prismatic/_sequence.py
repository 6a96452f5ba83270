"""Turn prompts into tokens, and sequences of unequal length into one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prophet_gym.errors import MissingWeightsError
from prophrl_algos.vla._tokenization import padded_tokens

TOKENIZER = "tokenizer.json"
_MAX_TOKENS = 96
"""Largest number of tokens of a prompt. LIBERO's longest instruction takes about half of it."""


@dataclass(frozen=True)
class Prompt:
    """Describe how an instruction is put to a policy: a text with `{task}` for the instruction in lower case."""

    template: str
    last: int | None
    """Token that is appended unless the prompt already ends with it."""
    stop: int
    """Token behind the action slots."""


class Tokenizer:
    """Read the text of a `tokenizer.json` with the `tokenizers` library alone, so that no class is chosen by a file."""

    def __init__(self, text: str) -> None:
        from tokenizers import Tokenizer as Backend

        self.text = text
        self._backend: Any = Backend.from_str(text)

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Return the tokenizer in a folder; MissingWeightsError if the folder has no tokenizer."""
        if not (folder / TOKENIZER).is_file():
            raise MissingWeightsError(f"{folder} holds no {TOKENIZER}; fetch it from the checkpoint's repository")
        return cls((folder / TOKENIZER).read_text(encoding="utf-8"))

    def __call__(self, text: str) -> list[int]:
        return list(self._backend.encode(text).ids)


def prompt_tokens(
    tokenizer: Tokenizer, prompt: Prompt, instructions: Sequence[str], max_tokens: int = _MAX_TOKENS
) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """Return the tokens of instructions, padded to `max_tokens`, and a mask of the real ones."""
    tokens = [tokenizer(prompt.template.format(task=instruction.lower())) for instruction in instructions]
    if prompt.last is not None:
        tokens = [ids if ids[-1] == prompt.last else [*ids, prompt.last] for ids in tokens]
    return padded_tokens(tokens, max_tokens, instructions)


def padded(rows: Sequence[Sequence[Float[Tensor, "_ d"]]]) -> tuple[Float[Tensor, "b n d"], Int[Tensor, " b"]]:
    """Concatenate the pieces of each row and pad with zeros behind; return the batch and the lengths of the rows."""
    joined = [torch.cat(list(pieces)) for pieces in rows]
    lengths = torch.tensor([len(row) for row in joined], device=joined[0].device)
    return pad_sequence(joined, batch_first=True), lengths


def attention_bias(
    lengths: Int[Tensor, " b"], longest: int, dtype: torch.dtype, *, causal: bool
) -> Float[Tensor, "b 1 n n"]:
    """Return what is added to attention scores: padding is unseen and, where causal, whatever comes later."""
    places = torch.arange(longest, device=lengths.device)
    seen = (places < lengths[:, None])[:, None].expand(-1, longest, -1)
    if causal:
        seen = seen & (places <= places[:, None])
    bias = torch.zeros(seen.shape, dtype=dtype, device=lengths.device)
    return bias.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def windows(states: Float[Tensor, "b n d"], first: Int[Tensor, " b"], count: int) -> Float[Tensor, "b m d"]:
    """Return `count` states of each row, beginning at its `first`."""
    places = first[:, None] + torch.arange(count, device=states.device)
    return states.gather(1, places[:, :, None].expand(-1, -1, states.shape[2]))
