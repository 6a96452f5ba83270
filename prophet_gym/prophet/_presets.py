"""The sizes that Prophet comes in: the published one, the bundled small one, and a tiny one for tests."""

from typing import Any, Literal

import torch
from torch import nn

from prophet_gym.prophet._action import ActionConfig
from prophet_gym.prophet._autoencoder import FRAMES_PER_LATENT, SPATIAL_COMPRESSION, FrameAutoencoder, WanAutoencoder
from prophet_gym.prophet._full import FullConfig, FullProphet
from prophet_gym.prophet._gripper import DISC_CHANNELS, GRIPPER_DIM, GripperTracker
from prophet_gym.prophet._small import SmallConfig, SmallProphet
from prophet_gym.prophet._transformer import HistoryOrder, ProphetTransformer3DModel
from prophet_gym.prophet._wrist import HAND_DIM

# Of the released 2.058 B transformer; all else is the constructor's default (reference.md: "Backbone").
FULL_TRANSFORMER: dict[str, Any] = {"action_frames": "pooled", "history_order": "oldest_finest"}
# Slots, rows and columns of latents that a small transformer knows at least.
_TABLE = (8, 32, 32)


def small_transformer(
    width: int = 192,
    layers: int = 6,
    head: int = 48,
    action_dim: int = 7,
    *,
    views: int = 1,
    latent_channels: int = 4,
    action_frames: Literal["input"] | None = "input",
    history_order: HistoryOrder | None = "newest_finest",
) -> ProphetTransformer3DModel:
    """Return a small transformer whose blocks are silent at first (AdaLN-zero) and whose first output is zero."""
    # The model of two views also reads the latents of the first frame.
    shown = latent_channels if views > 1 else 0
    return _silent_transformer(
        width,
        layers,
        head,
        latent_channels=FRAMES_PER_LATENT * latent_channels,
        max_size=_TABLE,
        action_dim=action_dim + (GRIPPER_DIM if views == 1 else HAND_DIM),
        action_frames=action_frames,
        action_frame_channels=FRAMES_PER_LATENT * DISC_CHANNELS + shown,
        history_order=history_order,
    )


def action_transformer(
    config: ActionConfig, width: int = 192, layers: int = 6, head: int = 48, *, latent_channels: int = 4
) -> ProphetTransformer3DModel:
    """Return the transformer of an `ActionProphet`, as silent at first as `small_transformer`."""
    sides = (1 + config.chunk // FRAMES_PER_LATENT, *(side // SPATIAL_COMPRESSION for side in config.frame_size))
    return _silent_transformer(
        width,
        layers,
        head,
        latent_channels=FRAMES_PER_LATENT * latent_channels,
        max_size=tuple(map(max, sides, _TABLE)),
        action_dim=config.numbers,
        action_frames="input",
        action_frame_channels=latent_channels + config.drawn_channels,
        history_order="newest_finest",
    )


def _silent_transformer(width: int, layers: int, head: int, **sizes: Any) -> ProphetTransformer3DModel:
    if width < head or width % head:
        raise ValueError(f"width must be a multiple of {head}, the size of an attention head, got {width}")
    model = ProphetTransformer3DModel(
        num_attention_heads=width // head,
        attention_head_dim=head,
        num_layers=layers,
        text_embed_dim=None,
        adaln_lora_dim=64,
        rope_scale=(1.0, 1.0, 1.0),
        actions_per_slot=FRAMES_PER_LATENT,
        action_stream="frame",
        **sizes,
    )
    for name, module in model.named_modules():
        if ("norm" in name and name.endswith("linear_2")) or name == "proj_out":
            nn.init.zeros_(module.weight)
    return model


def tiny_prophet(seed: int = 0) -> SmallProphet:
    """Return an untrained Prophet of 64x64 frames that runs in milliseconds; every input reaches its output."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        transformer = small_transformer(width=24, layers=1, head=12)
        nn.init.normal_(transformer.proj_out.weight, std=0.1)
        autoencoder = FrameAutoencoder(fine_channels=8, coarse_channels=8)
        tracker = GripperTracker(latent_size=(8, 8), hidden=16)
    camera = ((0.5, 0.0, 0.0, 0.5), (0.0, 0.5, 0.0, 0.5), (0.0, 0.0, 0.0, 1.0))
    config = SmallConfig(frame_size=(64, 64), camera=camera, background=(0.0, 0.1, 1), stillness=None)
    return SmallProphet(transformer, autoencoder, tracker, config)


TINY_FULL = FullConfig(chunk=4, frame_size=(32, 32), history_frames=8, steps=2)


def tiny_full_prophet(seed: int = 0, config: FullConfig = TINY_FULL) -> FullProphet:
    """Return an untrained Prophet with the full one's parts, by default for 32x32 frames and chunks of 4; for tests."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        transformer = ProphetTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            text_embed_dim=None,
            adaln_lora_dim=4,
            actions_per_slot=config.chunk,
            **FULL_TRANSFORMER,
        )
        autoencoder = tiny_vae()
    return FullProphet(transformer, autoencoder, config)


def tiny_vae() -> WanAutoencoder:
    """Return an untrained Wan VAE of the published geometry, as narrow as it can be."""
    return WanAutoencoder(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
