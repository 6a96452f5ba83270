"""Score videos with a vision-language model: by votes on its answers, or by the likelihood of its next word."""

import warnings
from functools import partial

warn = partial(warnings.warn, category=RuntimeWarning, stacklevel=3)
