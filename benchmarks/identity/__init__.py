"""Measure whether a grasped object stays that object in the dream: `python -m benchmarks.identity`."""
