"""Make flow policies of VLA-Adapter and OpenVLA-OFT."""

from prophrl_algos.vla.prismatic._policy import OpenVLAOFT, VLAAdapter

__all__ = ["OpenVLAOFT", "VLAAdapter"]
