"""Make flow policies of VLA-Adapter and OpenVLA-OFT."""

from prophrl_algos.vla.prismatic._openvla_oft import OpenVLAOFT
from prophrl_algos.vla.prismatic._vla_adapter import VLAAdapter

__all__ = ["OpenVLAOFT", "VLAAdapter"]
