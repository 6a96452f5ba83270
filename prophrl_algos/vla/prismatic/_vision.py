"""Compute the features of images with DINOv2 and SigLIP side by side, and project them for the language model.

The vision transformers are plain ones under timm's names, which published checkpoints use. transformers' classes
compute the same (a test compares them), but the mapping is not exact: they add a position to the class token, take
whole MLP ratios only, and name their layers otherwise in each major release, on which saved policies would depend.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from prophet_gym.errors import CheckpointError

_PATCH = 14
HEADS = {"vit_large_patch14_reg4_dinov2.lvd142m": 16, "vit_so400m_patch14_siglip_224": 16}
"""Attention heads of the two published backbones, which the shapes of weights do not tell; timm's names."""
COLOURS = (((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
"""Mean and deviation of colours in the training of DINOv2 (ImageNet's) and of SigLIP: timm's `default_cfg`."""


@dataclass(frozen=True)
class VitSize:
    """Hold the sizes of a vision transformer."""

    width: int
    depth: int
    heads: int
    hidden: int
    """Width inside each MLP."""
    grid: int
    """Number of patches across, and down."""
    registers: int = 0
    """Number of tokens before the patches beside the class token."""
    dino: bool = False
    """Build DINOv2, with a class token and a scale on every branch; SigLIP has neither."""


def vit_size(weights: Mapping[str, Tensor], heads: int) -> VitSize:
    """Return the sizes of published weights; their last block is not run, since the features are those before it."""
    missing = [name for name in ("blocks.0.mlp.fc1.weight", "pos_embed") if name not in weights]
    if missing:
        raise CheckpointError(f"a vision backbone must have {missing}, got {sorted(weights)[:8]} ...")
    numbers = [int(name.split(".")[1]) for name in weights if name.startswith("blocks.")]
    hidden, width = weights["blocks.0.mlp.fc1.weight"].shape
    registers = weights["reg_token"].shape[1] if "reg_token" in weights else 0
    grid = round(weights["pos_embed"].shape[1] ** 0.5)
    return VitSize(width, max(numbers), heads, hidden, grid, registers, dino="cls_token" in weights)


class _Block(nn.Module):
    """Apply attention and an MLP; dictionaries of layers keep timm's names."""

    def __init__(self, size: VitSize) -> None:
        super().__init__()
        width, self.heads = size.width, size.heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)  # timm's for all
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, size.hidden), "fc2": nn.Linear(size.hidden, width)})
        self.ls1, self.ls2 = (
            nn.ParameterDict({"gamma": nn.Parameter(torch.ones(width))}) if size.dino else None for _ in range(2)
        )

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        qkv = self.attn["qkv"](self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = self.attn["proj"](F.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2))
        x = x + (attended if self.ls1 is None else attended * self.ls1["gamma"])
        hidden = self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))
        return x + (hidden if self.ls2 is None else hidden * self.ls2["gamma"])


class VisionTransformer(nn.Module):
    """Compute the features that Prismatic reads: those of the last but one published block, without a norm."""

    def __init__(self, size: VitSize) -> None:
        super().__init__()
        self.size = size
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, size.width, _PATCH, _PATCH)})
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, size.grid**2, size.width))
        if size.dino:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width))
        if size.registers:
            self.reg_token = nn.Parameter(torch.zeros(1, size.registers, size.width))
        self.blocks = nn.ModuleList(_Block(size) for _ in range(size.depth))

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b n d"]:
        x = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2) + self.pos_embed
        before = [self.cls_token] if self.size.dino else []
        before += [self.reg_token] if self.size.registers else []
        x = torch.cat([*(token.expand(len(x), -1, -1) for token in before), x], 1)
        for block in self.blocks:
            x = block(x)
        return x[:, x.shape[1] - self.size.grid**2 :]


class FusedVision(nn.Module):
    """Concatenate the features of DINOv2 (`first`) and SigLIP (`second`) for each patch."""

    def __init__(self, first: VitSize, second: VitSize) -> None:
        super().__init__()
        if first.grid != second.grid:
            raise ValueError(f"both backbones must see the same patches, got grids of {first.grid} and {second.grid}")
        self.featurizer = VisionTransformer(first)
        self.fused_featurizer = VisionTransformer(second)
        self.image_size, self.width = _PATCH * first.grid, first.width + second.width

    def forward(self, images: UInt8[Tensor, "b s s 3"]) -> Float[Tensor, "b n d"]:
        values = images.float() / 255
        dtype = self.featurizer.pos_embed.dtype
        first, second = (
            ((values - values.new_tensor(mean)) / values.new_tensor(std)).movedim(-1, 1).to(dtype)
            for mean, std in COLOURS
        )
        return torch.cat([self.featurizer(first), self.fused_featurizer(second)], 2)


class Projector(nn.Sequential):
    """Project features of patches, or the robot's state, through layers of these widths to tokens."""

    fc1: nn.Linear

    def __init__(self, *widths: int) -> None:
        super().__init__()
        for number, (into, out) in enumerate(pairwise(widths), 1):
            if number > 1:
                self.add_module(f"gelu{number}", nn.GELU())
            self.add_module(f"fc{number}", nn.Linear(into, out))
