"""The eyes of Prismatic policies: DINOv2 and SigLIP side by side, projected to the language model's width.

Plain vision transformers with the names that timm gives to weights; neither timm nor torchvision is needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from prophet_gym.errors import CheckpointError

PATCH = 14
EPSILON = 1e-6
"""Of every LayerNorm (timm's vision transformers)."""
HEADS = {"vit_large_patch14_reg4_dinov2.lvd142m": 16, "vit_so400m_patch14_siglip_224": 16}
"""Attention heads of the two published backbones, which shapes of weights do not tell; timm's names."""
# The colours that each was trained with: ImageNet's for DINOv2, 0.5 for SigLIP (timm's `default_cfg`).
COLOURS = (((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))


@dataclass(frozen=True)
class VitSize:
    """The sizes of a vision transformer.

    Attributes:
        width: of a token.
        depth: blocks that are run.
        heads: of each attention.
        hidden: width inside each MLP.
        grid: patches across, and down.
        registers: tokens before the patches beside the class token.
        dino: whether it is DINOv2, with a class token and a scale on every branch; SigLIP has neither.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    grid: int
    registers: int = 0
    dino: bool = False

    @property
    def image_size(self) -> int:
        """Height and width of its pictures, pixels."""
        return PATCH * self.grid


def vit_size(weights: Mapping[str, Tensor], heads: int) -> VitSize:
    """The sizes that published weights have; their last block is not run, since the features are the one before it.

    Args:
        weights: of one backbone, in timm's names.
        heads: of each attention.

    Raises:
        CheckpointError: weights that say a size are missing.
    """
    missing = [name for name in ("blocks.0.mlp.fc1.weight", "pos_embed") if name not in weights]
    if missing:
        raise CheckpointError(f"a vision backbone must have {missing}, got {sorted(weights)[:8]} ...")
    numbers = [int(name.split(".")[1]) for name in weights if name.startswith("blocks.")]
    hidden, width = weights["blocks.0.mlp.fc1.weight"].shape
    registers = weights["reg_token"].shape[1] if "reg_token" in weights else 0
    grid = round(weights["pos_embed"].shape[1] ** 0.5)
    return VitSize(width, max(numbers), heads, hidden, grid, registers, dino="cls_token" in weights)


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, size: VitSize) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size.width, eps=EPSILON)
        self.attn = _Attention(size.width, size.heads)
        self.ls1 = _Scale(size.width) if size.dino else nn.Identity()
        self.norm2 = nn.LayerNorm(size.width, eps=EPSILON)
        self.mlp = _Mlp(size.width, size.hidden)
        self.ls2 = _Scale(size.width) if size.dino else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _Patches(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """A plain vision transformer up to the features that Prismatic reads: of its last-but-one block, not normalised.

    Args:
        size: its sizes; `depth` counts the blocks that are run.
    """

    def __init__(self, size: VitSize) -> None:
        super().__init__()
        self.size = size
        self.patch_embed = _Patches(size.width)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, size.grid**2, size.width))
        if size.dino:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width))
        if size.registers:
            self.reg_token = nn.Parameter(torch.zeros(1, size.registers, size.width))
        self.blocks = nn.ModuleList(_Block(size) for _ in range(size.depth))

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b n d"]:
        """The patches' features."""
        x = self.patch_embed(pixels) + self.pos_embed
        before = [self.cls_token] if self.size.dino else []
        before += [self.reg_token] if self.size.registers else []
        x = torch.cat([*(token.expand(len(x), -1, -1) for token in before), x], 1)
        for block in self.blocks:
            x = block(x)
        return x[:, x.shape[1] - self.size.grid**2 :]


class FusedVision(nn.Module):
    """DINOv2's and SigLIP's features of each patch, one after the other.

    Args:
        first: sizes of DINOv2.
        second: sizes of SigLIP; the same grid.
    """

    def __init__(self, first: VitSize, second: VitSize) -> None:
        super().__init__()
        if first.grid != second.grid:
            raise ValueError(f"both backbones must see the same patches, got grids of {first.grid} and {second.grid}")
        self.featurizer = VisionTransformer(first)
        self.fused_featurizer = VisionTransformer(second)

    @property
    def image_size(self) -> int:
        """Height and width of its pictures, pixels."""
        return self.featurizer.size.image_size

    @property
    def width(self) -> int:
        """Of a patch's features."""
        return self.featurizer.size.width + self.fused_featurizer.size.width

    def forward(self, images: UInt8[Tensor, "b s s 3"]) -> Float[Tensor, "b n d"]:
        """Features of the patches; each backbone has its own colours."""
        shares = images.float() / 255
        dtype = self.featurizer.pos_embed.dtype
        first, second = (
            ((shares - shares.new_tensor(mean)) / shares.new_tensor(std)).movedim(-1, 1).to(dtype)
            for mean, std in COLOURS
        )
        return torch.cat([self.featurizer(first), self.fused_featurizer(second)], 2)


class Projector(nn.Module):
    """Features of patches to the width of the language model.

    Args:
        features: width of the features.
        width: of the language model.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, 4 * features)
        self.fc2 = nn.Linear(4 * features, width)
        self.fc3 = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n f"]) -> Float[Tensor, "b n d"]:
        """One token per patch."""
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(x)))))


class StateProjector(nn.Module):
    """The robot's state as one token.

    Args:
        numbers: of a state.
        width: of the token.
    """

    def __init__(self, numbers: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(numbers, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, state: Float[Tensor, "b s"]) -> Float[Tensor, "b d"]:
        """The token."""
        return self.fc2(F.gelu(self.fc1(state)))
