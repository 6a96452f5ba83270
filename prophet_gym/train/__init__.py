"""Training: one loop, `fit`, and what each model of the project minimises with it.

The commands `prophet train`, `pretrain`, `train-reward` and `objects` are its users; a model of one's own needs a loss.
"""

from prophet_gym.train._fit import FitConfig, fit

__all__ = ["FitConfig", "fit"]
