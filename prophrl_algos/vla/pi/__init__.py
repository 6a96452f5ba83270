"""Make flow policies of Pi0 and Pi0.5."""

from prophrl_algos.vla.pi._pi0 import Pi0Policy
from prophrl_algos.vla.pi._pi05 import Pi05Policy

__all__ = ["Pi0Policy", "Pi05Policy"]
