"""A small flow VLA that a CPU can train."""

from prophrl_algos.vla.small._policy import SmallVLA

__all__ = ["SmallVLA"]
