"""Warn at the line of the caller: whoever reads the warning can change that line, not one of ours."""

import sys
import warnings
from types import FrameType

_OURS = ("prophet_gym", "prophrl_algos", "gymnasium")
"""Packages whose lines no warning names; Gymnasium's stand between a caller and our envs."""

_WRAPPERS = ("contextlib", "jaxtyping", "torch")
"""Packages whose decorators call our functions for the caller."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line that called into our packages, as plain text; `warnings` filters it as any other warning.

    A command has no caller, so its warnings name the script that started it, see `prophet_gym.cli._running`.
    """
    frame = caller = sys._getframe(1)
    # The outermost line of ours, since others stand between our own, such as those of a decorator or of torch.
    while frame is not None:
        if _package(frame) in _OURS:
            caller = frame.f_back or frame
        frame = frame.f_back
    while _package(caller) in _WRAPPERS and caller.f_back is not None:
        caller = caller.f_back
    where = caller.f_globals
    warnings.warn_explicit(
        message,
        category,
        caller.f_code.co_filename,
        caller.f_lineno,
        module=where.get("__name__", "<unknown>"),
        registry=where.setdefault("__warningregistry__", {}),
    )


def _package(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "").partition(".")[0]
