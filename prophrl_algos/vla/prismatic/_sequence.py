"""Prompts of Prismatic policies as tokens, and sequences of unequal length as one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prophet_gym.errors import MissingWeightsError

TOKENIZER = "tokenizer.json"
MAX_TOKENS = 96
"""Of a prompt; more is an error. LIBERO's longest instruction takes about half of it."""


@dataclass(frozen=True)
class Prompt:
    """How an instruction is put to a policy.

    Attributes:
        template: with `{task}` for the instruction in lower case.
        last: a token that the prompt must end with and is given if it does not; None for none.
        stop: the token behind the action slots.
    """

    template: str
    last: int | None
    stop: int


class Tokenizer:
    """A checkpoint's own `tokenizer.json`, read by the `tokenizers` library alone: no class of transformers is chosen.

    Args:
        text: what the file holds.
    """

    def __init__(self, text: str) -> None:
        from tokenizers import Tokenizer as Backend

        self.text = text
        self._backend: Any = Backend.from_str(text)

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """The one in a folder; MissingWeightsError if there is none."""
        if not (folder / TOKENIZER).is_file():
            raise MissingWeightsError(f"{folder} holds no {TOKENIZER}; fetch it from the checkpoint's repository")
        return cls((folder / TOKENIZER).read_text(encoding="utf-8"))

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`."""
        (folder / TOKENIZER).write_text(self.text, encoding="utf-8")

    def __call__(self, text: str) -> list[int]:
        """Tokens of a text, with those that the file puts around every text."""
        return list(self._backend.encode(text).ids)


def prompt_tokens(
    tokenizer: Tokenizer, prompt: Prompt, instructions: Sequence[str], max_tokens: int = MAX_TOKENS
) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """Tokens of instructions, padded to `max_tokens`, and which of them are real.

    Raises:
        ValueError: an instruction is too long.
    """
    tokens = torch.zeros(len(instructions), max_tokens, dtype=torch.int64)
    mask = torch.zeros(len(instructions), max_tokens, dtype=torch.bool)
    for row, instruction in enumerate(instructions):
        found = tokenizer(prompt.template.format(task=instruction.lower()))
        if prompt.last is not None and found[-1] != prompt.last:
            found.append(prompt.last)
        if len(found) > max_tokens:
            raise ValueError(
                f"a prompt must have at most {max_tokens} tokens, got {len(found)} of {instruction[:60]!r}...; "
                "shorten the instruction"
            )
        tokens[row, : len(found)] = torch.tensor(found)
        mask[row, : len(found)] = True
    return tokens, mask


def padded(rows: Sequence[Sequence[Float[Tensor, "_ d"]]]) -> tuple[Float[Tensor, "b n d"], Int[Tensor, " b"]]:
    """Pieces of each row one after the other, zeros behind; and how long each row is."""
    joined = [torch.cat(list(pieces)) for pieces in rows]
    lengths = torch.tensor([len(row) for row in joined], device=joined[0].device)
    return pad_sequence(joined, batch_first=True), lengths


def attention_bias(
    lengths: Int[Tensor, " b"], longest: int, dtype: torch.dtype, *, causal: bool
) -> Float[Tensor, "b 1 n n"]:
    """Added to attention scores: nothing sees padding and, where causal, nothing sees what comes after it."""
    places = torch.arange(longest, device=lengths.device)
    seen = (places < lengths[:, None])[:, None].expand(-1, longest, -1)
    if causal:
        seen = seen & (places <= places[:, None])
    bias = torch.zeros(seen.shape, dtype=dtype, device=lengths.device)
    return bias.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def windows(states: Float[Tensor, "b n d"], first: Int[Tensor, " b"], count: int) -> Float[Tensor, "b m d"]:
    """`count` states of each row from its `first` on."""
    places = first[:, None] + torch.arange(count, device=states.device)
    return states.gather(1, places[:, :, None].expand(-1, -1, states.shape[2]))
