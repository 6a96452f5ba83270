"""Describe what surrounds a published network: images, prompt, scales and signs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from prophrl_algos.vla._tokenization import PROMPTS, CharTokenizer, Prompt, Tokenize
from prophrl_algos.vla._units import Affine
from prophrl_algos.vla.conventions import Convention, convention


@dataclass(frozen=True)
class ImageConfig:
    """Describe how images are brought to the height and width of the network."""

    size: int
    antialias: bool = False
    """Whether shrinking averages, as PIL's bilinear filter does (openpi), or not, as torch's (lerobot)."""
    centred: bool = True
    """Whether the padding that makes an image square is on both sides, or on the left and top (SmolVLA)."""


@dataclass(frozen=True)
class ProcessorConfig:
    """Describe what a network was trained to read and to say; `state` is None if it reads no state."""

    convention: Convention
    images: ImageConfig
    actions: Affine
    state: Affine | None
    state_columns: int
    """Size to which the normalised state is padded with zeros."""
    tokenize: Tokenize
    prompt: Prompt
    max_tokens: int
    without_state: str = "refuse"

    def to_json(self) -> dict[str, Any]:
        """Return plain data; ValueError if the prompt is a function that no file can describe."""
        prompt = next((name for name, known in PROMPTS.items() if known is self.prompt), None)
        if prompt is None:
            raise ValueError("this policy cannot be saved, since its prompt is a function of its own: use load_policy")
        tokenize = self.tokenize
        return {
            "benchmark": self.convention.benchmark,
            "convention": self.convention.family,
            # "pictures" and "letters" are the names in files since the first release.
            "pictures": asdict(self.images),
            "actions": _listed(self.actions),
            "state": None if self.state is None else _listed(self.state),
            "state_columns": self.state_columns,
            "prompt": prompt,
            "max_tokens": self.max_tokens,
            "letters": tokenize.vocabulary if isinstance(tokenize, CharTokenizer) else None,
        }

    @classmethod
    def from_json(
        cls, said: Mapping[str, Any], action_dim: int, tokenize: Tokenize, without_state: str
    ) -> "ProcessorConfig":
        """Return the config that `to_json` described; KeyError, TypeError or ValueError if it is damaged."""
        state = None if said["state"] is None else _affine(said["state"], "state", None)
        found = cls(
            convention=convention(said["benchmark"], said["convention"]),
            images=ImageConfig(**said["pictures"]),
            actions=_affine(said["actions"], "actions", action_dim),
            state=state,
            state_columns=int(said["state_columns"]),
            tokenize=tokenize,
            prompt=PROMPTS[said["prompt"]],
            max_tokens=int(said["max_tokens"]),
            without_state=without_state,
        )
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


def _listed(by: Affine) -> dict[str, list[float]]:
    return {name: numbers.tolist() for name, numbers in by._asdict().items()}


def _affine(said: Mapping[str, Any], name: str, numbers: int | None) -> Affine:
    offset, scale = (torch.tensor(said[key], dtype=torch.float32) for key in ("offset", "scale"))
    sound = bool(offset.isfinite().all() and scale.isfinite().all() and (scale != 0).all())
    if offset.ndim != 1 or offset.shape != scale.shape or not sound or numbers not in (None, len(scale)):
        raise ValueError(f"{name} must be as many finite offsets as scales that are not 0, got {dict(said)}")
    return Affine(offset, scale)
