"""The world model: `SmallProphet`, `FullProphet` and their siblings, and the parts that they are made of."""

from prophet_gym.prophet._action import ActionConfig, ActionProphet
from prophet_gym.prophet._base import Prophet
from prophet_gym.prophet._frames import FrameConfig, FrameProphet
from prophet_gym.prophet._full import FullConfig, FullProphet
from prophet_gym.prophet._presets import small_transformer, tiny_full_prophet, tiny_prophet
from prophet_gym.prophet._small import SmallConfig, SmallProphet
from prophet_gym.prophet._wrist import TwoViewConfig, TwoViewProphet

__all__ = [
    "ActionConfig",
    "ActionProphet",
    "FrameConfig",
    "FrameProphet",
    "FullConfig",
    "FullProphet",
    "Prophet",
    "SmallConfig",
    "SmallProphet",
    "TwoViewConfig",
    "TwoViewProphet",
    "small_transformer",
    "tiny_full_prophet",
    "tiny_prophet",
]
