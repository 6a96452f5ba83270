"""Conversion of released weights: ProphRL's own, and Cosmos-Predict2's action-conditioned sample."""

from prophet_gym.prophet.convert._released import Conversion, convert_file, converted

__all__ = ["Conversion", "convert_file", "converted"]
