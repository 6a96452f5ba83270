"""A learned robot simulator behind Gymnasium: importing it registers the ids and loads nothing heavy."""

from prophet_gym.envs.registration import register_ids

register_ids()


def __getattr__(name: str) -> str:
    """Return the installed version as `__version__`, read when it is asked for."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("prophet-gym")


def __dir__() -> list[str]:
    return sorted({*globals(), "__version__"})
