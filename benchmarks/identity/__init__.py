"""Whether an object that was grasped stays that object in the dream: `python -m benchmarks.identity`."""
