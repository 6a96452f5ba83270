"""Conversion of released weights: ProphRL's own, and Cosmos-Predict2 as a starting point for training."""

from prophet_gym.prophet.convert._layout import (
    PROPHET_ACTION_DIM,
    NewParts,
    convert_cosmos,
    convert_transformer,
    is_counter,
    rename,
    without_text,
)
from prophet_gym.prophet.convert._released import Conversion, convert_file, converted, read_released

__all__ = [
    "PROPHET_ACTION_DIM",
    "Conversion",
    "NewParts",
    "convert_cosmos",
    "convert_file",
    "convert_transformer",
    "converted",
    "is_counter",
    "read_released",
    "rename",
    "without_text",
]
