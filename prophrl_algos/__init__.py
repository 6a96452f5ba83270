"""Learning inside the dream: reinforcement learning of flow policies."""
