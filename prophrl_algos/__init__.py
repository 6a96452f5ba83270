"""Learning inside the dream: reinforcement learning of flow policies, in any Gymnasium vector env."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prophrl_algos.vla._load import LoadOptions, load_policy

    __version__: str

__all__ = ["LoadOptions", "load_policy"]


def __getattr__(name: str) -> Any:
    """Return the loader, which needs torch, or the installed `__version__`, only once it is asked for."""
    if name in __all__:
        from prophrl_algos.vla import _load as load

        return getattr(load, name)
    if name == "__version__":
        import prophet_gym

        return prophet_gym.__version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
