"""Score videos with a vision-language model: by votes on its answers, or by the likelihood of its next word."""

from functools import partial

from prophet_gym._checks import warn as _warn

warn = partial(_warn, category=RuntimeWarning)
