"""Vision-language-action policies that obey the contract of `FlowPolicy`."""

from typing import TYPE_CHECKING, Any

from prophrl_algos.vla.small import SmallVLA

if TYPE_CHECKING:
    from prophrl_algos.vla._tiny import tiny_policy

__all__ = ["SmallVLA", "tiny_policy"]


def __getattr__(name: str) -> Any:
    """Return `tiny_policy` once it is asked for: it imports every family."""
    if name == "tiny_policy":
        from prophrl_algos.vla._tiny import tiny_policy

        return tiny_policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
