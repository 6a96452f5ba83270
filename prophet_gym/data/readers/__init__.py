"""Read what the paper's mixture is made of, each set in the layout in which it is published; a reader a file."""

from prophet_gym.data.readers._agibot import AgibotSource
from prophet_gym.data.readers._bridge import BridgeSource
from prophet_gym.data.readers._droid import DroidSource
from prophet_gym.data.readers._rlds import RldsLayout, RldsSource

__all__ = ["AgibotSource", "BridgeSource", "DroidSource", "RldsLayout", "RldsSource"]
