"""Rollouts by Ray workers: what is lost where processes die, what a worker costs, what stale rollouts are worth."""
