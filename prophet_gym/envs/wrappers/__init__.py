"""Wrappers for environments of action chunks; `prophet_gym.envs` exports them."""
