"""Describe what surrounds a published network: images, tokens of the prompt, scales and signs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from prophet_gym.errors import MissingWeightsError
from prophrl_algos.vla._units import Affine
from prophrl_algos.vla.conventions import Convention, convention

PROMPTS = ("line", "task_and_state")
"""Prompts by the name that saved policies store; the first is of pi0, SmolVLA, and pi0.5 where no state is read."""
TOKENIZER = "tokenizer"
"""The folder of the tokenizer inside that of a saved policy."""
_BINS = 256


def prompt_text(prompt: str, instruction: str, state: Float[Tensor, " s"] | None) -> str:
    """Return the instruction and a new line, or with the state, whose numbers are each one of 256 bins, or -1 below -1.

    This is `PaligemmaTokenizer.tokenize` of openpi (models/tokenizer.py).
    """
    cleaned = instruction.strip().replace("_", " ").replace("\n", " ")
    if prompt == "line":
        return f"{cleaned}\n"
    if state is None:
        raise ValueError("this prompt names the robot's state, and none was given")
    edges = torch.linspace(-1, 1, _BINS + 1, dtype=torch.float64)[:-1]
    bins = torch.bucketize(state.double().contiguous(), edges, right=True) - 1
    return f"Task: {cleaned}, State: {' '.join(map(str, bins.tolist()))};\nAction: "


def tokenizer_of(given: Any, default: str | Path) -> Any:
    """Return the Hugging Face tokenizer that `LoadOptions.tokenizer` is or names, by default that of a folder or name.

    MissingWeightsError says what to do where it cannot be had.
    """
    from transformers import AutoTokenizer

    if given is not None and not isinstance(given, str | Path):
        return given
    source = default if given is None else given
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MissingWeightsError(
            f"could not get the tokenizer {source}: {reason} Give LoadOptions(tokenizer=...) a "
            "folder that holds it, or accept its licence on the Hub and log in (hf auth login)"
        ) from error


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


@dataclass(frozen=True)
class ImageConfig:
    """Describe how images are brought to the height and width of the network."""

    size: int
    antialias: bool = False
    """Average when shrinking, as PIL's bilinear filter does (openpi), or not, as torch's (lerobot)."""
    centred: bool = True
    """Pad an image to a square on both sides, or only on the left and top (SmolVLA)."""


@dataclass(frozen=True)
class ProcessorConfig:
    """Describe what a network was trained to read and to say; `state` is None if it reads no state."""

    convention: Convention
    images: ImageConfig
    actions: Affine
    state: Affine | None
    state_columns: int
    """Size to which the normalised state is padded with zeros."""
    tokenizer: Any
    """A Hugging Face tokenizer."""
    prompt: str
    """A name of `PROMPTS`."""
    max_tokens: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data, without the tokenizer."""
        how = {"benchmark": self.convention.benchmark, "convention": self.convention.family}
        given = (("actions", self.actions), ("state", self.state))
        scales = {n: None if by is None else {k: v.tolist() for k, v in by._asdict().items()} for n, by in given}
        rest = {name: getattr(self, name) for name in ("state_columns", "prompt", "max_tokens")}
        # "pictures" is the name in files since the first release.
        return {**how, "pictures": asdict(self.images), **scales, **rest}

    @classmethod
    def from_json(cls, said: Mapping[str, Any], action_dim: int, tokenizer: Any) -> "ProcessorConfig":
        """Return the config that `to_json` described; KeyError, TypeError or ValueError if it is damaged."""
        state = None if said["state"] is None else _affine(said["state"], "state", None)
        found = cls(
            convention=convention(said["benchmark"], said["convention"]),
            images=ImageConfig(**said["pictures"]),
            actions=_affine(said["actions"], "actions", action_dim),
            state=state,
            state_columns=int(said["state_columns"]),
            tokenizer=tokenizer,
            prompt=said["prompt"],
            max_tokens=int(said["max_tokens"]),
        )
        if found.prompt not in PROMPTS:
            raise ValueError(f"prompt must be one of {', '.join(PROMPTS)}, got {found.prompt!r:.80}")
        if state is not None and found.state_columns < len(state.scale):
            raise ValueError(f"state_columns={found.state_columns} must be at least {len(state.scale)}")
        return found


def resized(frames: UInt8[Tensor, "b h w 3"], how: ImageConfig) -> Float[Tensor, "b 3 s s"]:
    """Return images at the network's size with values in [-1, 1]; black padding keeps their aspect ratio.

    *Difference from lerobot*: on openpi's networks lerobot pads with -3, which lies outside the range of its images.
    Square images are not padded.
    """
    pixels = frames.movedim(-1, 1).float() / 255
    height, width = pixels.shape[2:]
    ratio = max(height, width) / how.size
    size = (int(height / ratio), int(width / ratio))
    if size != (height, width):
        pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=how.antialias)
    down, across = how.size - size[0], how.size - size[1]
    left, top = (across // 2, down // 2) if how.centred else (across, down)
    return F.pad(pixels, (left, across - left, top, down - top)).clamp(0, 1) * 2 - 1


def _affine(said: Mapping[str, Any], name: str, numbers: int | None) -> Affine:
    offset, scale = (torch.tensor(said[key], dtype=torch.float32) for key in ("offset", "scale"))
    sound = bool(offset.isfinite().all() and scale.isfinite().all() and (scale != 0).all())
    if offset.ndim != 1 or offset.shape != scale.shape or not sound or numbers not in (None, len(scale)):
        raise ValueError(f"{name} must be as many finite offsets as scales that are not 0, got {dict(said)}")
    return Affine(offset, scale)
