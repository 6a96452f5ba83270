"""The world model: `SmallProphet` and `FullProphet`, and the parts that they are made of."""

from prophet_gym.prophet._base import Prophet
from prophet_gym.prophet._full import FullConfig, FullProphet
from prophet_gym.prophet._presets import small_transformer, tiny_full_prophet, tiny_prophet
from prophet_gym.prophet._small import SmallConfig, SmallProphet
from prophet_gym.prophet._wrist import TwoViewConfig, TwoViewProphet

__all__ = [
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
