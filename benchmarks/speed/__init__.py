"""Measure how fast a step of the small Prophet is, and what it is made of."""
