"""Learning inside the dream: reinforcement learning of flow policies, in any Gymnasium vector env."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prophrl_algos.vla.load import LoadOptions, load_policy

__all__ = ["LoadOptions", "load_policy"]


def __getattr__(name: str) -> Any:
    """The loader, which needs torch, only once it is asked for."""
    if name in __all__:
        from prophrl_algos.vla import load

        return getattr(load, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
