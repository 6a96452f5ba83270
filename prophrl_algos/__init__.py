"""Learning inside the dream: reinforcement learning of flow policies, in any Gymnasium vector env."""
