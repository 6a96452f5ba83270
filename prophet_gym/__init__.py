"""A learned robot simulator behind Gymnasium: importing it registers the ids and loads nothing heavy."""

import os

from prophet_gym._registration import register_ids

# Read when torch is loaded. Threads that spin at barriers take the core that another process, or the very thread they
# wait for, needs (docs/speed.md).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
register_ids()


def __getattr__(name: str) -> str:
    """Return the installed version as `__version__`, read when it is asked for."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("prophet-gym")
    except PackageNotFoundError as error:  # a folder on the path, which nobody installed
        raise AttributeError(f"module {__name__!r} is not installed, so it has no {name!r}") from error


def __dir__() -> list[str]:
    return sorted({*globals(), "__version__"})
