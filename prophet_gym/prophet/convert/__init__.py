"""Conversion of released weights: ProphRL's own, and Cosmos-Predict2's action-conditioned sample."""

from prophet_gym.prophet.convert._layout import convert_transformer, is_counter, rename, without_text
from prophet_gym.prophet.convert._released import Conversion, convert_file, converted, read_released

__all__ = [
    "Conversion",
    "convert_file",
    "convert_transformer",
    "converted",
    "is_counter",
    "read_released",
    "rename",
    "without_text",
]
