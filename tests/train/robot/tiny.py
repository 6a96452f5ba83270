"""Untrained Prophets of the other kinds that run in milliseconds, beside `tiny_prophet` and `tiny_full_prophet`."""

from typing import Any

import torch
from torch import nn

from prophet_gym.prophet import ActionConfig, ActionProphet, TwoViewConfig, TwoViewProphet
from prophet_gym.prophet._autoencoder import FrameAutoencoder
from prophet_gym.prophet._gripper import GripperTracker
from prophet_gym.prophet._presets import action_transformer, small_transformer
from prophet_gym.prophet._wrist import HAND_DIM


def tiny_two_view_prophet(seed: int = 0) -> TwoViewProphet:
    """Return an untrained Prophet of two cameras of 64x64 pixels that runs in milliseconds."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        transformer = small_transformer(width=24, layers=1, head=12, views=2, latent_channels=6)
        nn.init.normal_(transformer.proj_out.weight, std=0.1)
        autoencoder = FrameAutoencoder(latent_channels=6, fine_channels=8, coarse_channels=8)
        numbers = (0.0, 0.0, 0.5, 0.5, *[0.0] * 4)
        sizes: dict[str, Any] = {"latent_size": (16, 8), "latent_channels": 6, "views": 2, "hidden": 16, "window": 3}
        tracker = GripperTracker(gripper_mean=numbers, gripper_std=(0.1,) * HAND_DIM, **sizes)
    camera = ((0.5, 0.0, 0.0, 0.5), (0.0, 0.5, 0.0, 0.5), (0.0, 0.0, 0.0, 1.0))
    config = TwoViewConfig(frame_size=(64, 64), camera=camera, background=(0.0, 0.1, 1), stillness=None)
    return TwoViewProphet(transformer, autoencoder, tracker, config)


def tiny_action_prophet(seed: int = 0, **changes: Any) -> ActionProphet:
    """Return an untrained Prophet of 64x64 pixels that reads actions alone and runs in milliseconds."""
    config = ActionConfig(**{"frame_size": (64, 64), "background": (0.0, 0.1, 1), "stillness": None, **changes})
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        transformer = action_transformer(config, width=24, layers=1, head=12)
        nn.init.normal_(transformer.proj_out.weight, std=0.1)
        autoencoder = FrameAutoencoder(fine_channels=8, coarse_channels=8)
    return ActionProphet(transformer, autoencoder, config)
