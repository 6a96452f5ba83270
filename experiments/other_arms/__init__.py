"""Measure what a world model of two robot arms is worth for a third one."""
