"""Vision-language-action policies that obey the contract of `FlowPolicy`."""

from prophrl_algos.vla.small import SmallVLA

__all__ = ["SmallVLA"]
