"""Measure how the dream ranks scripts by their success in LIBERO: `python -m benchmarks.rank`."""
