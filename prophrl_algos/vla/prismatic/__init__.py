"""VLA-Adapter and OpenVLA-OFT as flow policies."""
